//! File descriptors: how many there are, and who may have them.
//!
//! A process has a bounded number of them, 1,024 unless somebody asked for more. Each connection takes one, and a second
//! one while it is sent a file. What strangers may take is therefore given out by a [`Budget`], after what the program
//! needs for itself: a recording never finds the last descriptor taken by an idle connection.

use std::{
    fs::File,
    io,
    sync::{Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// More than this is not asked for: some programs that we start close all that there may be, one by one.
pub const MOST: u64 = 65_536;
/// Descriptors of a connection: its socket, and the file that it is sent.
pub const PER_CONNECTION: u64 = 2;

/// Raises the number of files that this process may have open, as far as the system lets it, and says what it is now.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None: no limit.
    let (now, most) = (current.unwrap_or(MOST), maximum.unwrap_or(MOST).min(MOST));
    if now >= most {
        return now;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }) {
        Ok(()) => most,
        Err(_) => now,
    }
}

/// Descriptors that are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// What is left of `files` once the program has what it needs for itself.
    pub fn new(files: u64, reserved: u64) -> Self {
        Self { left: files.saturating_sub(reserved) }
    }

    /// Places for connections: at most `most`, and at most one `part`th of what is left. At least 8, without which a
    /// server is none.
    pub fn connections(&mut self, most: u64, part: u64) -> u64 {
        let places = (self.left.checked_div(part).unwrap_or(self.left) / PER_CONNECTION).min(most).max(8);
        self.left = self.left.saturating_sub(places.saturating_mul(PER_CONNECTION));
        places
    }

    /// Descriptors that nobody has.
    pub fn left(&self) -> u64 {
        self.left
    }
}

/// Descriptors that are held for bad times: when there is none left for what must not fail, they are let go for it. What
/// listens for connections pauses when it finds none, so what was let go is not taken at once.
#[derive(Debug, Default)]
pub struct Spare(Mutex<Vec<File>>);

impl Spare {
    /// How many are held.
    pub const COUNT: usize = 16;

    /// Holds as many as can be had, up to [`Spare::COUNT`].
    pub fn fill(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() < Self::COUNT {
            match File::open("/dev/null") {
                Ok(file) => held.push(file),
                Err(_) => return,
            }
        }
    }

    /// Lets all go. False if there were none.
    pub fn release(&self) -> bool {
        !std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).is_empty()
    }
}

/// Whether an error says that this process, or the system, has no descriptor left.
pub fn is_exhausted(error: &io::Error) -> bool {
    let none_left = [Errno::MFILE, Errno::NFILE];
    error.raw_os_error().is_some_and(|code| none_left.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_is_raised_and_stays() {
        let raised = raise();
        assert!(raised >= getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST));
        assert_eq!(raise(), raised);
    }

    #[test]
    fn spare_descriptors_are_let_go_once() {
        let spare = Spare::default();
        assert!(!spare.release());
        spare.fill();
        assert!(spare.release() && !spare.release());
        assert!(is_exhausted(&Errno::MFILE.into()) && !is_exhausted(&Errno::NOENT.into()));
    }

    proptest! {
        #[test]
        fn no_more_is_given_out_than_there_is(files in 400u64..200_000, parts in prop::collection::vec((1u64..5000, 1u64..8), 1..5)) {
            let reserved = 300;
            let mut budget = Budget::new(files, reserved);
            let given: u64 = parts.iter().map(|(most, part)| budget.connections(*most, *part) * PER_CONNECTION).sum();
            // But for the least that a server has.
            prop_assert!(given + budget.left() + reserved <= files + parts.len() as u64 * 16);
        }
    }
}
