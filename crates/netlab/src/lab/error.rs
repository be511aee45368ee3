//! Why a lab cannot be built or reached.

use std::io;

use crate::plan::PlanError;

/// Why a lab cannot be built or reached; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Not started by root.
    #[error("netlab makes network namespaces, which only root may: run it with sudo")]
    NotRoot,
    /// /dev/net/tun cannot be opened.
    #[error(
        "/dev/net/tun cannot be opened ({0}): load the module with `modprobe tun`, or pass the device into the container"
    )]
    NoTun(io::Error),
    /// A program is missing.
    #[error("the program `{program}` is missing: install the package {package}")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program said no.
    #[error("`{command}` failed: {message}")]
    Program {
        /// What was run.
        command: String,
        /// What it wrote to standard error.
        message: String,
    },
    /// The system said no.
    #[error("cannot {what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// The answer.
        reason: io::Error,
    },
    /// No lab runs, or several and none was named.
    #[error("{0}")]
    WhichLab(String),
    /// The running lab refused.
    #[error("{0}")]
    Refused(String),
    /// The description is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl LabError {
    /// For `map_err`: what was tried, and the system's answer.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |reason| Self::System { what, reason }
    }
}
