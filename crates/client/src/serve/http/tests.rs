//! Whatever a stranger asks the gateway for.

use std::{net::SocketAddr, sync::OnceLock};

use axum::{body::Body, extract::ConnectInfo, http::Request};
use bytes::Bytes;
use minuet_node::mesh::{Keeping, Mesh, MeshOptions, MeshRole, MeshStart, Uplink};
use minuet_proto::{ChannelId, ChannelKey, ChannelLink, mesh::Serial};
use minuet_remux::{Event, Pace, Transport};
use proptest::prelude::*;
use tower::ServiceExt as _;

use super::*;

/// More than anybody is kept waiting.
const PATIENCE: Duration = Duration::from_secs(120);

/// A gateway that has the segments 100 to 109 of the feed.
async fn gateway(folder: &std::path::Path, word: Option<&str>) -> Router {
    let shelf = Shelf::new(folder.to_owned(), Duration::from_secs(60), 100);
    shelf
        .take(vec![Event::Ready(Pace { segment_s: 2, part: Duration::from_millis(500), has_pictures: true })])
        .await;
    for number in 100..110 {
        let bytes = Bytes::from(vec![0x47; 188 * 100]);
        let (start_ms, duration) = (number * 2000, Duration::from_secs(2));
        let transport = Transport { number, start_ms, duration, discontinuity: false, bytes };
        shelf.take(vec![Event::Transport(transport)]).await;
    }
    let (_, stats) = watch::channel(MeshStats::default());
    let link = ChannelLink { channel: channel(), title: Some("A title".into()), trackers: Vec::new() };
    let (house, channel) = House::of_one(link, word.map(Into::into));
    let (station, past) = (Arc::clone(&channel.station), Arc::new(Past::new(mesh())));
    channel.set_gateway(Gateway::new(Arc::new(shelf), station, past, stats, house.access().clone()));
    router(house)
}

fn channel() -> ChannelId {
    ChannelKey::from_seed(&[1; 32]).channel()
}

/// A node without neighbours, that all tests share.
fn mesh() -> &'static Mesh {
    static MESH: OnceLock<(Mesh, tempfile::TempDir, tokio::runtime::Runtime)> = OnceLock::new();
    let (mesh, ..) = MESH.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let options = MeshOptions {
                channel: channel(),
                key: None,
                role: MeshRole::Viewer,
                start: MeshStart::Live,
                target_delay: Duration::from_secs(5),
                listen: ([127, 0, 0, 1], 0).into(),
                upload_limit: None,
                upload: true,
                folder: folder.path().to_owned(),
                window: 1024,
                first_serial: Serial::ZERO,
                known: None,
                lines: None,
                uplink: Uplink::default(),
                trackers: Vec::new(),
                dht: None,
                local: false,
                keep: Keeping::Nothing,
            };
            (runtime.block_on(Mesh::start(options)).unwrap(), folder, runtime)
        })
        .join()
        .unwrap()
    });
    mesh
}

/// What somebody asks for: words that are known, numbers at either end, and anything.
fn target() -> impl Strategy<Value = String> {
    let number = || {
        prop_oneof![
            (95u64..115).prop_map(|number| number.to_string()),
            Just(u64::MAX.to_string()),
            any::<u64>().prop_map(|number| number.to_string()),
            "[0-9.eE+-]{0,24}",
        ]
    };
    let name = prop_oneof![
        Just("index.m3u8".to_owned()),
        Just("live.m3u8".to_owned()),
        number().prop_map(|number| format!("{number}.ts")),
        number().prop_map(|number| format!("{number}.m4s")),
        (number(), number()).prop_map(|(number, part)| format!("{number}.{part}.m4s")),
        (number(), number()).prop_map(|(session, number)| format!("init-{session}-{number}.mp4")),
        "(%2e|%2f|%00|%ff|[!-~]){0,12}",
    ];
    const KNOWN: &[&str] =
        &["", "ts.m3u8", "stream.ts", "stream.aac", "channels.m3u", "status.json", "metrics", "health"];
    let path = prop_oneof![
        prop::sample::select(KNOWN).prop_map(str::to_owned),
        name.clone(),
        name.clone().prop_map(|name| format!("ts/{name}")),
        name.clone().prop_map(|name| format!("assets/{name}")),
        (number(), name).prop_map(|(track, name)| format!("track/{track}/{name}")),
    ];
    let word = prop::sample::select(&["_HLS_msn", "_HLS_part", "_HLS_skip", "key", "from", "x"][..]);
    let query = prop::collection::vec((word, prop_oneof![number(), "[ -~]{0,12}"]), 0..5);
    (path, query).prop_map(|(path, query)| {
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("/{path}?{}", query.join("&"))
    })
}

fn header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    const NAMES: &[&str] = &[
        "range",
        "if-range",
        "if-none-match",
        "if-match",
        "accept-encoding",
        "authorization",
        "host",
        "icy-metadata",
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "bytes=[0-9]{0,22}-[0-9]{0,22}(,0-)?".prop_map(String::into_bytes),
        "Basic [A-Za-z0-9+/=]{0,40}".prop_map(String::into_bytes),
        "(gzip|br|\\*)(;q=[0-9.]{0,5})?".prop_map(String::into_bytes),
    ];
    (prop::sample::select(NAMES), value)
}

/// Pages of others may play what is served, and learn nothing else.
#[tokio::test]
async fn what_others_pages_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), None).await;
    for (path, may) in
        [("/ts.m3u8", true), ("/ts/105.ts", true), ("/status.json", false), ("/channels.m3u", false)]
    {
        let peer: SocketAddr = ([192, 0, 2, 1], 1).into();
        let request = Request::get(path).extension(ConnectInfo(peer)).body(Body::empty()).unwrap();
        let answer = gateway.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), may, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever a stranger asks for, there is an answer, soon, and no fault of the gateway's.
    #[test]
    fn anything_that_is_asked_for_is_answered(
        target in target(),
        method in prop::sample::select(&["GET", "HEAD", "POST", "OPTIONS", "X"][..]),
        headers in prop::collection::vec(header(), 0..5),
        word in prop::option::of(Just("word")),
    ) {
        let peer: SocketAddr = ([192, 0, 2, 1], 1).into();
        let mut request = Request::builder().method(method).uri(&target).extension(ConnectInfo(peer));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // What HTTP itself refuses does not come so far.
        let Ok(request) = request.body(Body::empty()) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let status = runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let answer = gateway(dir.path(), word).await.oneshot(request);
            tokio::time::timeout(PATIENCE, answer).await.expect("it is answered").unwrap().status()
        });
        prop_assert!(!status.is_server_error() || status == StatusCode::SERVICE_UNAVAILABLE, "{target}: {status}");
    }
}
