//! What is said on standard error.

use minuet_console::{Screen, Setup};

/// Starts logging; `verbose` counts the `-v`.
pub fn start(verbose: u8) -> Screen {
    let filter = match verbose {
        0 => {
            "warn,minuet=info,minuet_node=info,librqbit=off,iroh=off,netwatch=off,rustls_platform_verifier=off"
        }
        1 => "info,minuet=debug,minuet_node=debug,minuet_swarm=debug,librqbit=off,iroh=warn,netwatch=off",
        _ => "debug",
    };
    // Who reads along on a terminal knows what time it is.
    Screen::start(Setup { variable: "RUST_LOG", filter, target: verbose > 1, time_on_terminal: false })
}
