//! The programs that a lab needs, and running them with their commands on standard input.

use std::{
    env,
    fs::File,
    io::Write,
    process::{Command, Stdio},
};

use super::error::LabError;

/// Programs and the Debian packages that have them.
const NEEDED: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// Checks for everything that a lab needs, so that the first thing that is missing is named.
pub fn check() -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    for (program, package) in NEEDED {
        if !env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            return Err(LabError::NoProgram { program, package });
        }
    }
    File::options().read(true).write(true).open("/dev/net/tun").map(drop).map_err(LabError::NoTun)
}

/// Runs `ip` with a batch of commands, in the calling thread's namespace.
pub fn ip(batch: &str) -> Result<(), LabError> {
    feed("ip", &["-batch", "-"], batch)
}

/// Loads rules with `nft`, in the calling thread's namespace.
pub fn nft(rules: &str) -> Result<(), LabError> {
    feed("nft", &["-f", "-"], rules)
}

fn feed(program: &str, arguments: &[&str], input: &str) -> Result<(), LabError> {
    let run = || {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that stops reading says why on standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(LabError::system(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(LabError::Program { command: format!("{program} {}", arguments.join(" ")), message })
}
