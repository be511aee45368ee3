//! TLS for the tracker's HTTP, with the operator's certificate.
//!
//! A port takes HTTP and HTTPS alike: a TLS connection begins with the byte 22 (RFC 8446, 5.1), which begins no HTTP
//! request. So BitTorrent clients that know no TLS still find the tracker where it was.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use iroh_relay::server::streams::MaybeTlsStream;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// First byte of a TLS record that opens a handshake.
const HANDSHAKE: u8 = 22;

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

/// The certificate in use; it can be exchanged while the tracker runs.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// Reads the certificate anew; when it cannot be used, the old one stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Shakes hands with a client that speaks TLS; leaves one that does not as it is.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<MaybeTlsStream> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 || first[0] != HANDSHAKE {
            return Ok(MaybeTlsStream::Plain(stream));
        }
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await.map(MaybeTlsStream::Tls)
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
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
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
