//! The channel's key file: 64 hexadecimal digits, for its owner's eyes only.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use minuet_proto::ChannelKey;

/// The most bytes of a key file that are read.
const MAX_KEY_FILE: u64 = 1024;

/// Reads the key file, or makes one with a new key when there is none. True when it was made.
pub fn load_or_make(path: &Path) -> Result<(ChannelKey, bool)> {
    match File::open(path) {
        Ok(file) => load(path, file).map(|key| (key, false)),
        Err(error) if error.kind() == ErrorKind::NotFound => make(path).map(|key| (key, true)),
        Err(error) => Err(error).with_context(|| {
            format!("cannot read the key file {}; check --key and its permissions", path.display())
        }),
    }
}

fn load(path: &Path, file: File) -> Result<ChannelKey> {
    let name = path.display();
    let metadata = file.metadata().with_context(|| format!("cannot read the key file {name}"))?;
    if metadata.is_dir() {
        bail!("{name} is a folder; let --key name a file");
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!(
            "the key file {name} can be read by others (mode {mode:o}), who could then speak for the channel; \
             run: chmod 600 {name}"
        );
    }
    let mut text = String::new();
    file.take(MAX_KEY_FILE)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the key file {name}; it is to hold 64 hexadecimal digits"))?;
    text.parse().with_context(|| {
        format!(
            "{name} holds no channel key; name another file with --key, or a missing one to have a key made"
        )
    })
}

fn make(path: &Path) -> Result<ChannelKey> {
    let name = path.display();
    let cannot = || {
        format!("cannot make the key file {name}; choose a folder that can be written, with --data or --key")
    };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(cannot)?;
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers to make a key of")?;
    let key = ChannelKey::from_seed(&seed);
    // Whole or not at all: half a key file would stop every later start.
    let part = path.with_extension("key.part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
        _ => {}
    }
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(&part).with_context(cannot)?;
    writeln!(file, "{}", key.to_secret_hex()).and_then(|()| file.sync_all()).with_context(cannot)?;
    // A link, since a rename would replace a key that another process made meanwhile.
    fs::hard_link(&part, path).with_context(cannot)?;
    fs::remove_file(&part).with_context(cannot)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/channel.key");
        let (key, made) = load_or_make(&path).unwrap();
        assert!(made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (again, made) = load_or_make(&path).unwrap();
        assert!(!made);
        assert_eq!(again.channel(), key.channel());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_private_key_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("channel.key");
        load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load_or_make(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(load_or_make(&path).unwrap_err().to_string().contains("holds no channel key"));
        assert!(load_or_make(dir.path()).is_err());
    }
}
