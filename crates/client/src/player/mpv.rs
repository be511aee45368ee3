//! What mpv is told and says: one JSON object a line (mpv's manual, "JSON IPC"). Tried with mpv 0.35. Pure.

use std::io;

use serde_json::{Value, json};

/// A line of the player is no longer than this.
const MAX_LINE: usize = 64 << 10;
/// What the key sends.
const MESSAGE: &str = "minuet-live";
/// The name of the key's binding.
const SECTION: &str = "minuet";
/// How long a hint stands in the picture, in milliseconds.
const HINT_MS: u32 = 4000;

/// What a player says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The key for the live edge was pressed.
    Leap,
}

/// Binds the key, unless the user has bound it.
pub fn greeting(key: &str) -> String {
    let binding = format!("{key} script-message {MESSAGE}\n");
    commands(&[json!(["define-section", SECTION, binding, "default"]), json!(["enable-section", SECTION])])
}

/// Shows a line in the picture.
pub fn show(text: &str) -> String {
    commands(&[json!(["show-text", text, HINT_MS])])
}

/// Forgets what was not shown yet, and goes on if it is paused.
pub fn leap() -> String {
    commands(&[json!(["drop-buffers"]), json!(["set_property", "pause", false])])
}

fn commands(commands: &[Value]) -> String {
    commands.iter().map(|command| format!("{}\n", json!({ "command": command }))).collect()
}

/// Lines as they come, in any portions.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// What the lines say that are whole with these bytes.
    ///
    /// # Errors
    /// A line is too long: this is no player.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<Vec<Heard>> {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        if self.rest.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(lines.split(|byte| *byte == b'\n').filter_map(heard).collect())
    }
}

fn heard(line: &[u8]) -> Option<Heard> {
    let said: Value = serde_json::from_slice(line).ok()?;
    let is_message = said["event"] == "client-message";
    (is_message && said["args"][0] == MESSAGE).then_some(Heard::Leap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_one_a_line() {
        let told = greeting("L");
        let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["command"][2], "L script-message minuet-live\n");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        assert!(lines.take(&[b'x'; MAX_LINE]).is_ok());
        assert!(lines.take(b"x").is_err());
    }
}
