//! The gateway's certificate: read at the start, and again when its files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use minuet_serve::PROTOCOLS;
use minuet_tls::{Tls, TlsFiles};

use crate::options::Serve;

/// How often it is looked whether the files have changed. Certificates are renewed weeks before they end.
const LOOK: Duration = Duration::from_secs(60);

/// The certificate that the command line names, if it names one.
pub fn load(options: &Serve) -> anyhow::Result<Option<Arc<Tls>>> {
    let files = options.tls_cert.clone().zip(options.tls_key.clone());
    let load = |(cert, key)| Tls::load(TlsFiles { cert, key }, PROTOCOLS).map(Arc::new);
    Ok(files.map(load).transpose()?)
}

/// Reads the certificate again when a file has changed. Goes on for ever.
pub async fn follow(tls: &Tls, files: Vec<PathBuf>) {
    let changed = |path: &PathBuf| modified(path);
    let mut known: Vec<Option<SystemTime>> = files.iter().map(changed).collect();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let now: Vec<Option<SystemTime>> = files.iter().map(changed).collect();
        if now == known {
            continue;
        }
        known = now;
        match tls.reload() {
            Ok(()) => tracing::info!("the certificate has changed, and was read again"),
            Err(error) => {
                tracing::warn!("the certificate has changed, and the old one stays in use: {error}")
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
