//! HTTPS beside HTTP on one port, with a certificate that changes under way.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use crate::support::{Publisher, base, config, get};
use minuet_proto::Phase;
use minuet_proto::channel_api::mesh::{JoinRequest, MeshJoin, MeshNode, mesh_join_path};
use minuet_proto::mesh::NodeId;
use minuet_tls::TlsFiles;
use minuet_tracker::{StartError, Tracker};
use reqwest::{Certificate, Client};

/// Writes a new certificate for `localhost` and returns a client that trusts it alone.
fn certificate(files: &TlsFiles) -> Client {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = |label: &str, der: &[u8]| {
        let text = base64(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    std::fs::write(&files.cert, pem("CERTIFICATE", made.cert.der())).unwrap();
    std::fs::write(&files.key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
    Client::builder().tls_certs_only([Certificate::from_der(made.cert.der()).unwrap()]).build().unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

fn files(folder: &Path) -> TlsFiles {
    TlsFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") }
}

#[tokio::test]
async fn one_port_takes_http_and_https_and_a_new_certificate_without_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let files = files(data.path());
    let first = certificate(&files);
    let mut config = config(data.path());
    config.tls = Some(files.clone());
    let tracker = Tracker::start(config).await.unwrap();
    let plain = base(&tracker);
    let secure = format!("https://localhost:{}/", tracker.http_addrs()[0].port());
    let health = format!("{secure}health");
    assert_eq!(first.get(&health).send().await.unwrap().text().await.unwrap(), "ok\n");
    assert_eq!(get(&format!("{plain}health")).await, (200, "ok\n".into()));

    // Who came by TLS is told of the relay server by TLS.
    let publisher = Publisher::new(1);
    publisher.publish_state(&plain, &publisher.state(5, Phase::Live, "", false)).await;
    let body = serde_json::to_vec(&JoinRequest::new(MeshNode::new(NodeId([1; 32])))).unwrap();
    let url = format!("{secure}{}", mesh_join_path(&publisher.channel()));
    let joined = first.post(url).body(body).send().await.unwrap().bytes().await.unwrap();
    let joined: MeshJoin = serde_json::from_slice(&joined).unwrap();
    assert_eq!(joined.relay, Some(secure));

    let second = certificate(&files);
    assert!(tracker.reload().unwrap());
    assert_eq!(second.get(&health).send().await.unwrap().text().await.unwrap(), "ok\n");
    // The connection that is open goes on; a new one would have to trust the new certificate.
    assert_eq!(first.get(&health).send().await.unwrap().text().await.unwrap(), "ok\n");
    std::fs::write(&files.key, "no key").unwrap();
    let error = tracker.reload().unwrap_err().to_string();
    assert!(error.contains("--tls-key"), "{error}");
    assert_eq!(second.get(&health).send().await.unwrap().text().await.unwrap(), "ok\n");
    tracker.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start_in_one_sentence() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(data.path());
    let (ours, theirs) = (files(data.path()), tempfile::tempdir().unwrap());
    config.tls = Some(ours.clone());
    let error = Tracker::start(config.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::Tls(_)) && error.to_string().contains("--tls-cert"), "{error}");
    certificate(&ours);
    certificate(&files(theirs.path()));
    config.tls = Some(TlsFiles { key: files(theirs.path()).key, ..ours });
    let error = Tracker::start(config).await.unwrap_err().to_string();
    assert!(error.contains("must belong together"), "{error}");
}
