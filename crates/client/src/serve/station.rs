//! What is said of the channel: its title, and whether it is on air.

use std::sync::{Mutex, PoisonError};

use minuet_proto::{Phase, SignedState};

/// The channel, as the gateway's answers name it.
#[derive(Debug)]
pub struct Station {
    said: Mutex<Said>,
}

#[derive(Debug, Clone)]
struct Said {
    title: String,
    phase: Option<Phase>,
}

impl Station {
    /// A channel that its link calls so.
    pub fn new(title: Option<&str>) -> Self {
        let title = title.filter(|title| !title.is_empty()).unwrap_or("Minuet").to_owned();
        Self { said: Mutex::new(Said { title, phase: None }) }
    }

    /// The source has said something.
    pub fn hear(&self, state: &SignedState) {
        let mut said = self.lock();
        if !state.title.is_empty() {
            said.title = state.title.to_string();
        }
        said.phase = Some(state.phase);
    }

    /// What it is called.
    pub fn title(&self) -> String {
        self.lock().title.clone()
    }

    /// Whether the source is on air, has ended or is silent, once it said so.
    pub fn phase(&self) -> Option<Phase> {
        self.lock().phase
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Said> {
        // Each field is whole by itself.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
