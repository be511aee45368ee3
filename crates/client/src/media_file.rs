//! A plain media file, where a link or a recording was meant: what to do with it instead.

use std::{fs::File, io::Read as _, path::Path};

use minuet_media::{looks_like_mpeg_ts, looks_like_other_media};

/// How much of a file is looked at.
const HEAD_LEN: u64 = 16 << 10;
/// Names that media has whose first bytes are like any others.
const EXTENSIONS: &[&str] = &[
    "aac", "ac3", "avi", "flac", "flv", "h264", "hevc", "m2ts", "m4a", "m4v", "mkv", "mov", "mp2", "mp3",
    "mp4", "mpeg", "mpg", "mts", "ogg", "opus", "ts", "vob", "wav", "webm", "wmv",
];

/// What is to be said of a media file; none if it is none.
pub fn advice(path: &Path) -> Option<String> {
    // Nobody waits for the writer of a pipe here.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let mut head = Vec::new();
    // One that cannot be read is told of by its name alone.
    let _ = File::open(path).and_then(|file| file.take(HEAD_LEN).read_to_end(&mut head));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let named = EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known));
    let is_media = named || looks_like_mpeg_ts(&head) || looks_like_other_media(&head);
    is_media.then(|| {
        let path = path.display();
        format!(
            "{path} is a media file, neither a channel's link nor the folder of a recording: play it with a player (mpv \
             {path}), or put it on air with minuet-segmenter {path}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_is_told_from_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let says = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            advice(&path)
        };
        let packets = [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; 184]].concat().repeat(20);
        for (name, bytes) in
            [("clip", &packets[..]), ("film", b"\0\0\0\x20ftypisom"), ("RADIO.MP3", b"\xff\xfb\x90\x64")]
        {
            let said = says(name, bytes).unwrap_or_else(|| panic!("{name} is media"));
            assert!(said.contains("mpv") && said.contains("minuet-segmenter"), "{said}");
        }
        assert_eq!(says("notes.txt", b"no media"), None);
        assert_eq!(advice(dir.path()), None);
        assert_eq!(advice(Path::new("/nowhere/at/all.ts")), None);
    }
}
