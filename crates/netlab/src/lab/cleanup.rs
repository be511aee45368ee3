//! Taking a lab down: first the processes in it, then its namespaces; the devices go with them.

use std::{fs, process, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    LabError,
    identity::{self, ENV_ID, LabId},
    namespace::Namespace,
};

/// How long processes may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// Takes down what dead labs have left. Returns how many there were.
pub fn sweep() -> Result<usize, LabError> {
    let _alone = identity::alone()?;
    let dead = LabId::dead();
    for id in &dead {
        take_down(id);
        id.forget();
    }
    Ok(dead.len())
}

/// Ends every process of the lab and removes its namespaces. Goes on past what fails, so that as little as
/// possible stays, and says it.
pub fn take_down(id: &LabId) {
    let namespaces = id.namespaces();
    end_processes(id, &namespaces);
    for namespace in namespaces {
        if let Err(error) = namespace.delete() {
            eprintln!("netlab: {error}");
        }
    }
}

fn end_processes(id: &LabId, namespaces: &[Namespace]) {
    let links: Vec<String> = namespaces.iter().filter_map(Namespace::proc_link).collect();
    let mark = format!("{ENV_ID}={}", id.as_str());
    for (signal, wait) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        for pid in members(&mark, &links) {
            // One that has ended in the meantime needs no signal.
            let _ = kill_process(pid, signal);
        }
        for _ in 0..wait.as_millis() / CHECK_EVERY.as_millis() {
            if members(&mark, &links).is_empty() {
                return;
            }
            thread::sleep(CHECK_EVERY);
        }
    }
    eprintln!("netlab: processes of lab {} do not end", id.as_str());
}

/// The processes that are in one of the lab's namespaces, or were started by its script, whatever group or session
/// they are in. Never this process.
fn members(mark: &str, links: &[String]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| u32::try_from(*pid) != Ok(process::id()))
        .filter(|pid| is_member(*pid, mark, links))
        .filter_map(Pid::from_raw)
        .collect()
}

fn is_member(pid: i32, mark: &str, links: &[String]) -> bool {
    // Both are unreadable, and the link gone, when the process has ended; a zombie has neither.
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
    if links.iter().any(|ours| link.as_os_str() == ours.as_str()) {
        return true;
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
}
