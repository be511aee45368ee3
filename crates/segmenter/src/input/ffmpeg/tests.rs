//! ffmpeg as a process: its output, its last words and its end.

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn job() -> Job {
    Job {
        origin: Origin::Url("rtmp://host/live/hunter2".to_owned()),
        name: "the feed".to_owned(),
        secrets: Secrets::of("rtmp://host/live/hunter2"),
        raw: true,
        repeat: false,
        arguments: FfmpegArguments::default(),
        program: None,
        insecure: false,
        finite: None,
        start: None,
        skip: Duration::ZERO,
    }
}

fn spawn(command: Command) -> Result<Ffmpeg, InputError> {
    let job = job();
    Ok(Ffmpeg {
        running: Running::start(command, &job, None)?,
        plan: plan::blind(&[]),
        job,
        settled: true,
        again: false,
        listing: Listing::default(),
        fruitful: false,
        flaws: Flaws::default(),
        speechless: None,
        remarks: Vec::new(),
    })
}

fn shell(script: &str) -> Ffmpeg {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    spawn(command).unwrap()
}

#[test]
fn output_then_the_end() {
    let mut child = shell("printf abc");
    let mut buf = [0; 16];
    assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::Data(3));
    assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::End);
}

#[test]
fn last_words_are_told_without_secrets() {
    let mut child = shell(
        "for n in 1 2 3 4 5; do echo line $n >&2; done; echo '[x @ 0x5ab] [error] no hunter2 6' >&2; exit 3",
    );
    let error = child.read(&mut [0; 16], PATIENCE).unwrap_err().to_string();
    assert_eq!(
        error,
        "ffmpeg could not read the feed (exit status: 3): line 3; line 4; line 5; [x] no *** 6"
    );
}

#[test]
fn a_playlist_that_cannot_be_had_any_more_is_no_end() {
    let mut child = shell("echo '[hls @ 0x5ab] Failed to reload playlist 0' >&2");
    let error = child.read(&mut [0; 16], PATIENCE).unwrap_err().to_string();
    assert!(error.contains("reload playlist"), "{error}");
}

#[test]
fn dropping_it_ends_it() {
    let mut child = shell("printf x; exec sleep 3600");
    let mut buf = [0; 1];
    assert_eq!(child.read(&mut buf, PATIENCE).unwrap(), Read::Data(1));
    let pid = child.running.child.id();
    drop(child);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

/// As a script that starts ffmpeg in its turn, which outlives it and holds its pipes.
#[test]
fn what_it_has_started_ends_with_it() {
    let mut child = shell("sleep 3600 & trap '' TERM; printf \"$!\"; wait");
    let mut buf = [0; 16];
    let Read::Data(len) = child.read(&mut buf, PATIENCE).unwrap() else { panic!("it says a number") };
    let pid = String::from_utf8_lossy(&buf[..len]).into_owned();
    let (say, gone) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(child);
        say.send(())
    });
    gone.recv_timeout(PATIENCE).expect("it ends");
    // Killed, if nobody has waited for it yet.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn a_missing_program_is_a_sentence() {
    let error = spawn(Command::new("/nowhere/ffmpeg")).unwrap_err();
    assert!(error.to_string().contains("install it"), "{error}");
}

#[test]
fn words_are_split_as_a_shell_does() {
    let arguments = FfmpegArguments::parse(
        "-headers \"Authorization: Bearer abc\"",
        "-c copy -metadata 'service_name=Radio Tower'",
    );
    let arguments = arguments.unwrap();
    assert_eq!(arguments.input, ["-headers", "Authorization: Bearer abc"]);
    assert_eq!(arguments.output[3], "service_name=Radio Tower");
    let error = FfmpegArguments::parse("", "-metadata 'x").unwrap_err().to_string();
    assert!(error.contains("--ffmpeg-output-args"), "{error}");
}
