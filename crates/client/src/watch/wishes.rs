//! What the user types while watching: `live` and Enter leaps to the live edge.
//!
//! Rule: a terminal is read only while this program is in its foreground; a job in the background that reads is stopped.

use std::{
    io::{IsTerminal as _, Read as _},
    os::fd::AsFd as _,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::getpgrp,
    termios::tcgetpgrp,
};
use tokio::sync::watch;

/// How often it is looked whether the program has come to the foreground.
const LOOK: Duration = Duration::from_secs(1);
/// Most bytes that are read at a time.
const LINE: usize = 256;

/// Counts the user's wishes to be at the live edge. Without a terminal this program hears of none here.
pub fn hear() -> watch::Sender<u64> {
    let wishes = watch::Sender::new(0);
    let wish = wishes.clone();
    if std::io::stdin().is_terminal() {
        // Ends with the process: a read cannot be taken back.
        let _ = std::thread::Builder::new().name("terminal".into()).spawn(move || read(&wish));
    }
    wishes
}

fn read(wish: &watch::Sender<u64>) {
    let mut stdin = std::io::stdin();
    let timeout = rustix::event::Timespec::try_from(LOOK).ok();
    loop {
        let ready = {
            let fd = stdin.as_fd();
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            let Ok(count) = poll(&mut fds, timeout.as_ref()) else { return };
            count > 0 && tcgetpgrp(fd).is_ok_and(|group| group == getpgrp())
        };
        if !ready {
            // Something may wait that is not for a job in the background.
            std::thread::sleep(LOOK);
            continue;
        }
        let mut line = [0; LINE];
        match stdin.read(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(count) if is_wish(&line[..count]) => wish.send_modify(|wishes| *wishes += 1),
            Ok(_) => {}
        }
    }
}

fn is_wish(line: &[u8]) -> bool {
    matches!(line.trim_ascii(), b"live" | b"l")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_is_a_wish() {
        assert!(is_wish(b"live\n") && is_wish(b" l \r\n"));
        assert!(!is_wish(b"\n") && !is_wish(b"alive\n"));
    }
}
