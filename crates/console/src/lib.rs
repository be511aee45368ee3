//! What the programs say to the people who run them: the log and the status line on standard error, a few lines on
//! standard output, and the signals that end a program.
//!
//! # The rule
//! No program dies of its log, and none waits for it. A line that cannot be written (the terminal was closed, the
//! reader of the pipe has gone or stands still, the disk is full) is dropped and counted; once writing works again, one
//! line says how many were lost. So nothing here panics, and one thread of its own does all the writing. For the same
//! reason no program uses `eprintln!` or `println!`, which panic: [`complain`] and [`print()`] stand in for them.
//!
//! Nor does a log fill a disk, whatever strangers do: of each kind of line there are a hundred at once and then one in a second,
//! which says how many were left out. What is asked for with `debug` comes whole.
//!
//! Nor does a program say what is secret: in each line passwords, stream keys and tokens are masked
//! ([`minuet_proto::mask()`]), and so is what [`Screen::keep_secret`] was told.
//!
//! A log that goes to the journal has no times, which the journal has, and its lines' importance where the journal looks
//! for it. A service manager that wants to know is told when the program is ready, that it lives, and when it ends
//! (feature `service`).

mod flood;
mod journal;
mod out;
mod screen;
#[cfg(feature = "service")]
pub mod service;
#[cfg(feature = "signals")]
mod signals;
mod writer;

pub use out::{complain, flush, print};
pub use screen::{Screen, Setup};
#[cfg(feature = "signals")]
pub use signals::Signals;
