//! Logs that go to the journal: it has the time already, and takes a line's importance from `<N>` before it
//! (sd-daemon(3)).

use std::{env, fs, os::unix::fs::MetadataExt as _};

use tracing::Level;

/// Whether standard error is the journal's: `JOURNAL_STREAM` names its device and inode. Programs that were started with
/// other standard error have the variable too.
pub(crate) fn is_standard_error() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let found = fs::metadata("/proc/self/fd/2").map(|file| (file.dev(), file.ino())).ok();
    named.zip(found).is_some_and(|(named, found)| names(&named, found))
}

fn names(stream: &str, (device, inode): (u64, u64)) -> bool {
    stream.split_once(':').is_some_and(|(named_device, named_inode)| {
        named_device.parse() == Ok(device) && named_inode.parse() == Ok(inode)
    })
}

/// syslog(3)'s number for a level.
pub(crate) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// `text` with its importance before each line: the journal makes an entry of each.
pub(crate) fn marked(text: &str, priority: u8) -> String {
    text.split_inclusive('\n').map(|line| format!("<{priority}>{line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_from_other_standard_errors() {
        assert!(names("8:12345", (8, 12_345)));
        for other in ["8:1", "9:12345", "8", "", "8:12345:1", "x:y"] {
            assert!(!names(other, (8, 12_345)), "{other}");
        }
    }

    #[test]
    fn each_line_has_its_importance() {
        assert_eq!(marked("one\ntwo\n", priority(Level::WARN)), "<4>one\n<4>two\n");
        assert_eq!(marked("one", 3), "<3>one");
        assert_eq!(marked("", 3), "");
    }
}
