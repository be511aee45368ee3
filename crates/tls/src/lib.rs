//! An operator's certificate (`--tls-cert`, `--tls-key`), which can be exchanged while a server runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject as _},
        },
    },
};

/// First byte of a TLS record that opens a handshake (RFC 8446, 5.1). It begins no HTTP request, so a port can take HTTP and
/// HTTPS alike.
pub const HANDSHAKE: u8 = 22;

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate and those between it and its authority.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or has not what it should.
    #[error("cannot read {path}: {source}; name a PEM file with {option}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
        /// The option that names it.
        option: &'static str,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("cannot use the certificate {path}: {source}; --tls-cert and --tls-key must belong together")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

/// The certificate in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    /// What is offered, the best first (RFC 7301).
    protocols: &'static [&'static str],
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate of a server that speaks these protocols, as in `h2` and `http/1.1`.
    ///
    /// # Errors
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(files: TlsFiles, protocols: &'static [&'static str]) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&files, protocols)?));
        Ok(Self { files, protocols, current })
    }

    /// Reads the certificate anew; when it cannot be used, the old one stays.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.files, self.protocols)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What shakes hands with the next client.
    pub fn acceptor(&self) -> TlsAcceptor {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config)
    }
}

fn read(files: &TlsFiles, protocols: &[&str]) -> Result<ServerConfig, TlsError> {
    let failed = |path: &Path, option| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source, option }
    };
    let certs = CertificateDer::pem_file_iter(&files.cert)
        .and_then(|certs| certs.collect::<Result<Vec<_>, _>>())
        .and_then(|certs| if certs.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(certs) })
        .map_err(failed(&files.cert, "--tls-cert"))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(failed(&files.key, "--tls-key"))?;
    // The provider is named, since more than one is linked in and rustls will not choose.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(certs, key))
        .map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(config)
}
