//! What a service manager is told: that the program is ready, that it lives, that it ends (sd_notify(3), whose protocol
//! is one datagram to the socket that `NOTIFY_SOCKET` names). Where none is named, nothing is sent.

use std::{
    convert::Infallible,
    env,
    ffi::OsStr,
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// How often a heartbeat is written.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A heartbeat so old is that of a program that hangs: several were missed.
const HEARTBEAT_DEAD: Duration = Duration::from_secs(30);

/// Tells the service manager that the program does now what it is for.
pub fn ready() {
    tell("READY=1");
}

/// Tells the service manager that the program was told to end, and ends.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Says again and again that the program lives, for as long as the future is polled: so a runtime that hangs is noticed. Says
/// it to the service manager's watchdog, and in the file that `MINUET_HEARTBEAT` names, where containers look. Never resolves.
pub async fn live() -> Infallible {
    let pid = std::process::id().to_string();
    let var = |name: &str| env::var(name).ok();
    let watchdog = interval(var("WATCHDOG_USEC").as_deref(), var("WATCHDOG_PID").as_deref(), &pid);
    let heartbeat = heartbeat();
    let Some(every) = watchdog.into_iter().chain(heartbeat.is_some().then_some(HEARTBEAT)).min() else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        if watchdog.is_some() {
            tell("WATCHDOG=1");
        }
        if let Some(file) = &heartbeat {
            // Whoever looks for it misses it, and says so.
            let _ = tokio::fs::write(file, b"").await;
        }
    }
}

/// Whether the program that writes the heartbeat here lives. The error is a sentence.
///
/// # Errors
/// When there is no heartbeat, or an old one.
pub fn check_health() -> Result<(), String> {
    let file = heartbeat().ok_or("the environment names no MINUET_HEARTBEAT, so nothing is known")?;
    let written = fs::metadata(&file).and_then(|file| file.modified());
    let written = written.map_err(|error| format!("{} cannot be looked at: {error}", file.display()))?;
    match SystemTime::now().duration_since(written) {
        Ok(age) if age > HEARTBEAT_DEAD => Err(format!("the last sign of life is {} s old", age.as_secs())),
        _ => Ok(()),
    }
}

fn heartbeat() -> Option<PathBuf> {
    env::var_os("MINUET_HEARTBEAT").filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// How often the watchdog is to be told: twice as often as it wants, as sd_watchdog_enabled(3) advises. `None` if it is not
/// this process that it watches.
fn interval(wanted_us: Option<&str>, pid: Option<&str>, own_pid: &str) -> Option<Duration> {
    let wanted = Duration::from_micros(wanted_us?.parse().ok()?);
    let is_ours = pid.is_none_or(|pid| pid == own_pid);
    (is_ours && !wanted.is_zero()).then(|| (wanted / 2).max(Duration::from_millis(1)))
}

/// A service manager that cannot be told notices by itself; the program does its work all the same.
fn tell(what: &str) {
    if let Some(name) = env::var_os("NOTIFY_SOCKET") {
        let _ = send(&name, what);
    }
}

fn send(name: &OsStr, what: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        name => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // Nobody waits for a service manager that does not read.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(what.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_reaches_a_path_and_an_abstract_name() {
        let name = format!("minuet-test-{}", std::process::id());
        let path = env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        send(OsStr::new(&format!("@{name}")), "WATCHDOG=1").unwrap();
        let mut bytes = [0; 64];
        let length = by_path.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
        let length = by_name.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"WATCHDOG=1");
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }

    #[test]
    fn the_watchdog_is_told_twice_as_often_as_it_wants() {
        assert_eq!(interval(Some("30000000"), Some("7"), "7"), Some(Duration::from_secs(15)));
        assert_eq!(interval(Some("30000000"), None, "7"), Some(Duration::from_secs(15)));
        assert_eq!(interval(Some("30000000"), Some("8"), "7"), None);
        assert_eq!(interval(Some("1"), None, "7"), Some(Duration::from_millis(1)));
        for none in [None, Some("0"), Some("soon")] {
            assert_eq!(interval(none, None, "7"), None);
        }
    }
}
