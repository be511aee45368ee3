//! Contribution: where uplink is scarce, neighbours that pass media on come first.
//!
//! Rules:
//! 1. A neighbour is a *rider* if it says that it uploads nothing, or if this node has given it much and got next to nothing
//!    back although it asked. Nobody gives a source anything. At a source a neighbour is a rider if next to nothing of what
//!    is pushed to it reappears at others, provided that there are enough others to tell; so nodes that all others have
//!    banned do not live on the source.
//! 2. A *newcomer* is a neighbour whose link is younger than [`NEW`]. What it has given tells nothing, since each of a crowd
//!    gives as soon as it has a piece.
//! 3. Newcomers are served with what older neighbours leave, riders with what all others leave.
//!
//! After Tit-for-Tat (BEP 3), Give-to-Get (Mol et al., MMCN 2008) and super-seeding (BEP 16), but without choking: being
//! last in line is penalty enough, and costs nothing while there is uplink to spare.

use std::time::Duration;

use crate::Timestamp;
use crate::members::neighbour::Neighbour;
use crate::stream::tempo::Tempo;

/// What a neighbour may take before its own giving is looked at, in seconds of the stream: longer than anybody who gives
/// goes without being asked for anything.
const GRACE_S: f32 = 8.0;
/// Part of what it took that it must have given.
const SHARE: u64 = 64;

/// Part of the pieces pushed to it that must have reappeared elsewhere.
const SPREADS: f32 = 0.1;

/// A link is new for so long.
const NEW: Duration = Duration::from_secs(15);

/// How a neighbour stands when uplink is scarce, the first served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has been here for a while and is no rider: a slow one may never be asked, and is not to blame.
    Giver,
    /// It has not been here long enough to tell.
    Newcomer,
    /// It takes and does not give.
    Rider,
}

pub(crate) fn standing(neighbour: &Neighbour, tempo: &Tempo, now: Timestamp) -> Standing {
    if is_rider(neighbour, tempo) || neighbour.spreads < SPREADS {
        Standing::Rider
    } else if neighbour.since + NEW < now {
        Standing::Giver
    } else {
        Standing::Newcomer
    }
}

/// Whether `neighbour` is served last.
pub(crate) fn is_rider(neighbour: &Neighbour, tempo: &Tempo) -> bool {
    neighbour.flags.no_upload
        || (neighbour.given as f32 > GRACE_S * tempo.rate
            && neighbour.taken < neighbour.given / SHARE
            && (neighbour.unanswered > 0 || neighbour.broken_off > 0))
}
