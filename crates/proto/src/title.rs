//! Titles, which strangers choose and terminals, pages and players show.

use crate::Error;

/// The longest title in bytes (UTF-8).
pub const MAX_TITLE_LENGTH: usize = 200;

/// Whether a title may be signed: short and without control characters.
///
/// # Errors
/// When it is not.
pub fn check_title(title: &str) -> Result<(), Error> {
    Error::check_length("a title", title.len(), MAX_TITLE_LENGTH)?;
    if title.chars().any(char::is_control) {
        return Err(Error::malformed("a title", "it has a control character"));
    }
    Ok(())
}

/// A title as it may be shown: without control and format characters, without blanks around it, and cut at
/// [`MAX_TITLE_LENGTH`]. May be empty.
pub fn clean_title(title: &str) -> String {
    let mut clean = String::new();
    for c in title.trim().chars().filter(|c| !c.is_control() && !is_format(*c)) {
        if clean.len() + c.len_utf8() > MAX_TITLE_LENGTH {
            break;
        }
        clean.push(c);
    }
    clean.trim().to_owned()
}

/// Whether a character only changes how others are laid out: Unicode's general category Cf (Unicode 17), and its line and
/// paragraph separators. Some turn the direction of all that follows on a line ("Trojan Source", CVE-2021-42574), the
/// others are not seen at all, so that two titles that differ look alike. The joiners of Persian and of emoji are among
/// them: their letters stay, unjoined.
pub fn is_format(c: char) -> bool {
    matches!(
        u32::from(c),
        0xad | 0x600..=0x605
            | 0x61c
            | 0x6dd
            | 0x70f
            | 0x890..=0x891
            | 0x8e2
            | 0x180e
            | 0x200b..=0x200f
            | 0x2028..=0x202e
            | 0x2060..=0x2064
            | 0x2066..=0x206f
            | 0xfeff
            | 0xfff9..=0xfffb
            | 0x1_10bd
            | 0x1_10cd
            | 0x1_3430..=0x1_343f
            | 0x1_bca0..=0x1_bca3
            | 0x1_d173..=0x1_d17a
            | 0xe_0001
            | 0xe_0020..=0xe_007f
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_turns_or_hides_text_is_taken_off() {
        assert_eq!(clean_title("\u{202e}oidaR\u{202c} \u{2066}Tower\u{2069}"), "oidaR Tower");
        assert_eq!(clean_title("Ra\u{ad}dio\u{200b} To\u{200d}wer\u{feff}\u{e0041}"), "Radio Tower");
        assert_eq!(clean_title(" \u{1b}[2JRadio\n\u{2028} "), "[2JRadio");
        assert_eq!(clean_title("\u{200f}"), "");
        assert_eq!(
            clean_title("Čeština, русский, العربية, 日本語, 📻"),
            "Čeština, русский, العربية, 日本語, 📻"
        );
    }

    proptest! {
        #[test]
        fn a_clean_title_is_fit_to_be_signed_and_stays_as_it_is(title in "\\PC{0,300}|.{0,300}") {
            let clean = clean_title(&title);
            prop_assert!(check_title(&clean).is_ok());
            prop_assert!(!clean.chars().any(is_format));
            prop_assert_eq!(clean_title(&clean), clean);
        }
    }
}
