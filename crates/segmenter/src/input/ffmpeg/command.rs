//! The command line that ffmpeg is started with.

use std::{path::Path, process::Command};

use super::{super::file::is_session, Job, Origin, plan::Plan};

/// Where systems keep the certificates that they trust.
const TRUSTED: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// What a playlist that was made smaller may lead to: never a file of this machine.
const OF_A_PLAYLIST: &str = "http,https,tls,tcp,crypto,httpproxy,data";

/// A server that brings nothing for ten seconds has broken off.
const STALLED: &[&str] = &["-rw_timeout", "10000000"];
/// A film that broke off goes on from there, if the server takes ranges.
const RESUMES: &[&str] = &["-reconnect", "1", "-reconnect_delay_max", "5"];
/// Still pictures, as a slate may be one.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff"];
/// What the description of an RTP session (SDP) may lead to; ffmpeg by itself lets a file lead to nothing.
const OF_A_SESSION: &str = "file,rtp,udp,tcp,crypto,data";

/// Protocols that carry bytes of any kind, and that in practice carry MPEG-TS, which is best left as it is.
pub fn carries_bytes(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    matches!(scheme, "srt" | "rist" | "tcp" | "unix")
}

/// Whether the end of what it brings is only that of a connection, whatever length ffmpeg says it has.
pub fn is_live(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    matches!(
        scheme,
        "srt"
            | "rist"
            | "tcp"
            | "unix"
            | "udp"
            | "rtp"
            | "srtp"
            | "rtsp"
            | "rtsps"
            | "rtmp"
            | "rtmps"
            | "rtmpt"
    )
}

/// The command, but for its standard input and output.
pub fn command(job: &Job, plan: &Plan) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info"]);
    match &job.origin {
        // ffmpeg's loop knows no end of one picture. A percent sign in its name is no number.
        Origin::Url(url) if job.repeat && is_picture(url) => {
            command.args(["-f", "image2", "-pattern_type", "none", "-loop", "1"]);
        }
        _ if job.repeat => {
            command.args(["-stream_loop", "-1"]);
        }
        _ => {}
    }
    if let Some(start) = job.start {
        command.arg("-live_start_index").arg(format!("-{start}"));
    }
    let url = match &job.origin {
        Origin::Url(url) => {
            let (url, own) = as_ffmpeg_takes_it(url, job.insecure);
            command.args(own);
            if url.starts_with("http://") || url.starts_with("https://") {
                command.args(STALLED).args(RESUMES);
            }
            if url.strip_prefix("file:").is_some_and(|path| is_session(Path::new(path))) {
                command.args(["-protocol_whitelist", OF_A_SESSION]);
            }
            url
        }
        Origin::Playlist(playlist) => {
            command.args(STALLED).args(["-protocol_whitelist", OF_A_PLAYLIST, "-f", "hls"]);
            playlist.clone()
        }
        // Opened anew, so that ffmpeg can look at its end first.
        Origin::StdinFile => "file:/dev/stdin".to_owned(),
        Origin::Fed { format } => {
            if let Some(format) = format {
                command.args(["-f", format]);
            }
            "pipe:0".to_owned()
        }
    };
    if job.raw {
        command.args(["-f", "data", "-i", &url, "-map", "0:0", "-c", "copy", "-flush_packets", "1"]);
        command.args(["-f", "data", "pipe:1"]);
        return command;
    }
    command.args(&job.arguments.input).args(["-i", &url]);
    if !job.skip.is_zero() {
        command.arg("-ss").arg(format!("{:.3}", job.skip.as_secs_f64()));
    }
    command.args(&plan.arguments);
    command.args(["-flush_packets", "1", "-f", "mpegts", "pipe:1"]);
    command
}

/// The URL and the options before it. An RTMP or SRT address of no machine in particular means that the encoder comes
/// to us.
fn as_ffmpeg_takes_it(input: &str, insecure: bool) -> (String, Vec<String>) {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let Some((scheme, rest)) = input.split_once("://") else { return (input.to_owned(), Vec::new()) };
    let anyone = rest.starts_with("0.0.0.0:") || rest.starts_with("[::]:") || rest.starts_with(':');
    let url = match rest.strip_prefix(':') {
        Some(port) => format!("{scheme}://0.0.0.0:{port}"),
        None => input.to_owned(),
    };
    match scheme {
        "srt" if anyone && !rest.contains("mode=") => {
            let and = if rest.contains('?') { '&' } else { '?' };
            (format!("{url}{and}mode=listener"), Vec::new())
        }
        "rtsp" | "rtsps" => (url, words(&["-rtsp_transport", "tcp"])),
        // ffmpeg believes any certificate unless it is told otherwise.
        "https" if !insecure => match trusted() {
            Some(file) => (url, words(&["-tls_verify", "1", "-ca_file", &file])),
            None => (url, Vec::new()),
        },
        _ => (url, Vec::new()),
    }
}

/// Whether a file's name is that of a still picture.
fn is_picture(url: &str) -> bool {
    let extension = Path::new(url).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    PICTURES.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The file with the certificates that this system trusts.
fn trusted() -> Option<String> {
    let own = std::env::var("SSL_CERT_FILE").ok();
    own.into_iter()
        .chain(TRUSTED.iter().map(|file| (*file).to_owned()))
        .find(|file| Path::new(file).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_no_machine_listens() {
        for (input, url, options) in [
            ("rtmp://host/live", "rtmp://host/live", &[][..]),
            ("srt://:9000", "srt://0.0.0.0:9000?mode=listener", &[]),
            ("srt://0.0.0.0:9000?latency=200000", "srt://0.0.0.0:9000?latency=200000&mode=listener", &[]),
            ("srt://host:9000", "srt://host:9000", &[]),
            ("rtsp://camera/1", "rtsp://camera/1", &["-rtsp_transport", "tcp"]),
        ] {
            let (found, own) = as_ffmpeg_takes_it(input, false);
            assert_eq!((found.as_str(), own.iter().map(String::as_str).collect()), (url, options.to_vec()));
        }
        assert!(as_ffmpeg_takes_it("https://host/x", true).1.is_empty());
    }
}
