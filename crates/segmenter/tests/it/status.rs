//! The status page and the metrics of a running segmenter.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests: a panic is how they fail")]

use std::time::Duration;

use crate::common::{CLIP, Segmenter};

async fn get(url: &str) -> (u16, bytes::Bytes) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_the_metrics_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["-", "--segment", "2s", "--status", "127.0.0.1:0", "--channel", "Tower \"1\""];
    let mut segmenter = Segmenter::start(dir.path(), &arguments);
    let line = segmenter.wait_for("status page: ");
    let base = line.split_once("status page: ").unwrap().1.split_once("/, metrics").unwrap().0.to_owned();
    segmenter.link();
    assert_eq!(get(&format!("{base}/preview.jpg")).await.0, 404, "nothing is recorded yet");
    segmenter.feed(&CLIP);
    segmenter.wait_for("segment 2 sealed");

    // Figures are taken once a second.
    let recorded = async {
        loop {
            let (status, text) = get(&format!("{base}/metrics")).await;
            assert_eq!(status, 200);
            let text = String::from_utf8(text.to_vec()).unwrap();
            if text.contains("minuet_open_segment 3") {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let metrics =
        tokio::time::timeout(Duration::from_secs(60), recorded).await.expect("the third segment shows");
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!(value("minuet_feed_bytes_total"), CLIP.len() as f64);
    assert_eq!(value("minuet_key_frame_distance_seconds"), 1.0);
    assert_eq!(value("minuet_continuity_errors_total"), 0.0);
    assert_eq!(value("minuet_feed_live"), 1.0);
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        assert!(metrics.contains(&format!("# TYPE {} ", line.split(' ').next().unwrap())), "{line}");
    }

    let figures = String::from_utf8(get(&format!("{base}/figures.json")).await.1.to_vec()).unwrap();
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    assert_eq!((figures["title"].as_str(), figures["phase"].as_str()), (Some("Tower \"1\""), Some("live")));
    assert_eq!(figures["in"].as_array().unwrap().len(), figures["out"].as_array().unwrap().len());
    let page = String::from_utf8(get(&base).await.1.to_vec()).unwrap();
    assert!(
        page.contains("figures.json") && !page.contains("https://"),
        "the page loads nothing from elsewhere"
    );
    let (status, picture) = get(&format!("{base}/preview.jpg")).await;
    assert_eq!((status, &picture[..3]), (200, &[0xff, 0xd8, 0xff][..]), "a JPEG");
}
