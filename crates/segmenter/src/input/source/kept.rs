//! What has come and was not handed out yet, or may have to come once more: ffmpeg begins with the first byte.

use super::{super::READ_LEN, About};

/// What has come is kept for ffmpeg, if it need be, up to so much. Beyond, ffmpeg begins with what comes then.
const MAX_KEPT: usize = 4 << 20;
const _: () = assert!(MAX_KEPT >= READ_LEN);

impl About {
    /// The next of what was kept and not handed out.
    pub(super) fn take_kept(&mut self, buf: &mut [u8]) -> Option<usize> {
        let at = self.handed_out?;
        let rest = self.kept.as_ref()?.get(at..).filter(|rest| !rest.is_empty())?;
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.handed_out = Some(at + len);
        Some(len)
    }

    /// Keeps what has come for as long as there is room.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.len() + bytes.len() > MAX_KEPT {
                self.kept = None;
                return;
            }
            kept.extend_from_slice(bytes);
            self.handed_out = self.handed_out.map(|at| at + bytes.len());
        }
    }
}
