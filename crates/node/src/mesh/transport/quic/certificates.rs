//! Which certificates are taken: those of a tracker's address discovery, which it signs itself and names in its answer to
//! a join, and those that a public authority has signed, for trackers behind https.
//!
//! Nothing secret goes over these connections: links prove their keys themselves, and what a relay server passes on is
//! encrypted from end to end.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use iroh::tls::CaTlsConfig;
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest as _, Sha256};

/// Most fingerprints remembered: a few trackers, each restarted a few times. The oldest goes first.
const MAX_PINS: usize = 16;

/// The fingerprints (SHA-256) that trackers have named. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<RwLock<VecDeque<[u8; 32]>>>);

impl Pins {
    /// Takes a certificate from now on.
    pub fn add(&self, fingerprint: [u8; 32]) {
        let mut pins = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !pins.contains(&fingerprint) {
            if pins.len() == MAX_PINS {
                pins.pop_front();
            }
            pins.push_back(fingerprint);
        }
    }

    fn contain(&self, certificate: &CertificateDer<'_>) -> bool {
        let fingerprint: [u8; 32] = Sha256::digest(certificate).into();
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint)
    }

    /// How the endpoint checks certificates.
    pub fn tls_config(&self) -> CaTlsConfig {
        let pins = self.clone();
        CaTlsConfig::custom_server_cert_verifier(Arc::new(move |provider: Arc<CryptoProvider>| {
            let public = CaTlsConfig::embedded().server_cert_verifier(provider)?;
            io::Result::<Arc<dyn ServerCertVerifier>>::Ok(Arc::new(Verifier { pins: pins.clone(), public }))
        }))
    }
}

/// Takes what is pinned, and leaves the rest to `public`.
#[derive(Debug)]
struct Verifier {
    pins: Pins,
    public: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pins.contain(end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        self.public.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    // That the far end holds the certificate's key is checked in the same way for all.

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.public.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.public.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_named_is_taken_and_not_for_ever() {
        let pins = Pins::default();
        let certificate = |n: u8| CertificateDer::from(vec![n; 40]);
        let fingerprint = |n: u8| Sha256::digest([n; 40]).into();
        pins.add(fingerprint(0));
        assert!(pins.contain(&certificate(0)) && !pins.contain(&certificate(1)));
        for n in 1..=MAX_PINS as u8 {
            pins.add(fingerprint(n));
            pins.add(fingerprint(n));
        }
        assert!(!pins.contain(&certificate(0)) && pins.contain(&certificate(1)));
    }
}
