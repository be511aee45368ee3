//! Subtitles in teletext: pages as text (ETSI EN 300 706 in PES packets as EN 300 472 has them).
//!
//! What a viewer would see boxed on the picture is taken: rows of the wanted pages, with national letters and the accented ones
//! of packets X/26. Colours, sizes and places are left out. A row that was damaged is left out, too.

use minuet_media::{TeletextPage, Timestamp};

use crate::pes::Pes;

/// Rows of a page below its header.
const ROWS: usize = 25;
/// Characters of a row.
const COLUMNS: usize = 40;
/// A data unit: its length byte says this.
const UNIT: usize = 44;
/// What begins a teletext packet within it.
const FRAMING: u8 = 0xe4;

/// What a page shows from a moment on; nothing, when it was taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// When; None: now.
    pub pts: Option<Timestamp>,
    /// Its lines, from above.
    pub lines: Vec<String>,
}

/// Decodes one stream's pages.
#[derive(Debug)]
pub struct Teletext {
    pages: Vec<Page>,
    /// The page that each magazine is sending, by its place in `pages`.
    open: [Option<usize>; 8],
}

#[derive(Debug)]
struct Page {
    wanted: TeletextPage,
    /// The national letters in use.
    nation: u8,
    rows: Vec<[char; COLUMNS]>,
    /// It was sent since it was handed out.
    fresh: bool,
    shown: Vec<String>,
}

impl Teletext {
    /// For these pages.
    pub fn new(pages: &[TeletextPage]) -> Self {
        let page = |wanted: &TeletextPage| Page {
            wanted: *wanted,
            nation: 0,
            rows: vec![[' '; COLUMNS]; ROWS],
            fresh: false,
            shown: Vec::new(),
        };
        Self { pages: pages.iter().map(page).collect(), open: [None; 8] }
    }

    /// Takes a PES packet; hands out which of the pages shows something else.
    pub fn push(&mut self, pes: &Pes, mut found: impl FnMut(usize, Caption)) {
        // data_identifier of EBU data.
        if !pes.body.first().is_some_and(|identifier| (0x10..=0x1f).contains(identifier)) {
            return;
        }
        let mut rest = &pes.body[1..];
        while let [kind, length, after @ ..] = rest {
            let Some((unit, next)) = after.split_at_checked(usize::from(*length)) else { break };
            if matches!(kind, 0x02 | 0x03)
                && let Some(unit) = unit.first_chunk::<UNIT>()
                && unit[1] == FRAMING
            {
                self.packet(unit);
            }
            rest = next;
        }
        // Subtitles are sent as a whole.
        for (index, page) in self.pages.iter_mut().enumerate() {
            if !std::mem::take(&mut page.fresh) {
                continue;
            }
            let lines = page.lines();
            if lines != page.shown {
                page.shown.clone_from(&lines);
                found(index, Caption { pts: pes.pts, lines });
            }
        }
    }

    fn packet(&mut self, unit: &[u8; UNIT]) {
        // As bits are sent, the lowest first.
        let byte = |at: usize| unit[at].reverse_bits();
        let (Some(low), Some(high)) = (hamming8(byte(2)), hamming8(byte(3))) else { return };
        let magazine = usize::from(low & 7);
        let row = usize::from(low >> 3 | high << 1);
        let data: [u8; COLUMNS] = std::array::from_fn(|at| byte(at.saturating_add(4)));
        if row == 0 {
            self.header(magazine, &data);
            return;
        }
        let Some(page) = self.open[magazine].and_then(|index| self.pages.get_mut(index)) else { return };
        match row {
            1..=24 => page.row(row, &data),
            26 => page.enhance(&data),
            _ => {}
        }
    }

    fn header(&mut self, magazine: usize, data: &[u8; COLUMNS]) {
        let mut nibbles = [0; 8];
        for (nibble, byte) in nibbles.iter_mut().zip(data) {
            let Some(value) = hamming8(*byte) else {
                // Whatever page it is.
                self.open[magazine] = None;
                return;
            };
            *nibble = value;
        }
        let [units, tens, _, erase, _, _, _, nation] = nibbles;
        // In serial mode a header ends the pages of all magazines.
        if nation & 1 == 1 {
            self.open = [None; 8];
        }
        let number = tens << 4 | units;
        let is =
            |page: &Page| usize::from(page.wanted.magazine & 7) == magazine && page.wanted.page == number;
        let index = self.pages.iter().position(is);
        self.open[magazine] = index;
        let Some(page) = index.and_then(|index| self.pages.get_mut(index)) else { return };
        page.nation = nation >> 1;
        page.fresh = true;
        if erase & 8 != 0 {
            page.rows.fill([' '; COLUMNS]);
        }
    }
}

impl Page {
    fn row(&mut self, row: usize, data: &[u8; COLUMNS]) {
        let Some(cells) = self.rows.get_mut(row) else { return };
        let mut boxed = false;
        for (cell, byte) in cells.iter_mut().zip(data) {
            // Seven bits and odd parity.
            let code = if byte.count_ones() % 2 == 1 { byte & 0x7f } else { 0x20 };
            match code {
                0x0b => boxed = true,
                0x0a => boxed = false,
                _ => {}
            }
            *cell = if boxed && code >= 0x20 { letter(code, self.nation) } else { ' ' };
        }
    }

    /// Accented letters, and those of the second set.
    fn enhance(&mut self, data: &[u8; COLUMNS]) {
        let mut row = 0;
        for triplet in data[1..].as_chunks::<3>().0 {
            let Some(value) = hamming24(*triplet) else { continue };
            let (address, mode, code) = (value & 0x3f, value >> 6 & 0x1f, (value >> 11) as u8 & 0x7f);
            match (address, mode) {
                (40..=63, 0x01 | 0x04) => {
                    row = if address == 40 { 24 } else { (address as usize).saturating_sub(40) }
                }
                (63, 0x1f) => return,
                (0..=39, 0x0f..=0x1f) => {
                    let accented = match mode {
                        0x0f => second(code),
                        _ => accented(letter(code, 0), (mode & 0xf) as u8),
                    };
                    let cell = self.rows.get_mut(row).and_then(|cells| cells.get_mut(address as usize));
                    if let (Some(cell), Some(accented)) = (cell, accented) {
                        *cell = accented;
                    }
                }
                _ => {}
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let line = |cells: &[char; COLUMNS]| {
            let text: String = cells.iter().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        self.rows.iter().skip(1).map(line).filter(|line| !line.is_empty()).collect()
    }
}

/// A nibble with its check bits (8.2); one wrong bit is put right.
fn hamming8(byte: u8) -> Option<u8> {
    let nibble = |byte: u8| byte >> 1 & 1 | byte >> 2 & 2 | byte >> 3 & 4 | byte >> 4 & 8;
    let is_good = |byte: u8| {
        let parity = |mask: u8| (byte & mask).count_ones() % 2 == 1;
        parity(0b1010_0011) && parity(0b1000_1110) && parity(0b0011_1010) && parity(0xff)
    };
    if is_good(byte) {
        return Some(nibble(byte));
    }
    (0..8).map(|bit| byte ^ 1 << bit).find(|byte| is_good(*byte)).map(nibble)
}

/// Eighteen bits with their check bits (8.3); what is damaged is left out.
fn hamming24(bytes: [u8; 3]) -> Option<u32> {
    let word = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    // Bits are counted from 1; a test covers those whose number has its bit.
    let covers =
        |test: u32| (1..=23).filter(|bit| bit & test != 0 && word << 1 >> bit & 1 == 1).count() % 2 == 1;
    let good = [1, 2, 4, 8, 16].into_iter().all(covers) && word.count_ones() % 2 == 1;
    good.then_some(word >> 2 & 1 | word >> 3 & 0xe | word >> 4 & 0x7f0 | word >> 5 & 0x3f800)
}

/// A letter of the Latin set with a nation's own letters (table 36; the nations of table 32's first column).
fn letter(code: u8, nation: u8) -> char {
    const PLACES: [u8; 13] = [0x23, 0x24, 0x40, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x7b, 0x7c, 0x7d, 0x7e];
    // As C12, C13, C14 come, the lowest bit first.
    let nation: [char; 13] = match nation & 7 {
        // German.
        0b100 => ['#', '$', '§', 'Ä', 'Ö', 'Ü', '^', '_', '°', 'ä', 'ö', 'ü', 'ß'],
        // Swedish, Finnish, Hungarian.
        0b010 => ['#', '¤', 'É', 'Ä', 'Ö', 'Å', 'Ü', '_', 'é', 'ä', 'ö', 'å', 'ü'],
        // Italian.
        0b110 => ['£', '$', 'é', '°', 'ç', '→', '↑', '#', 'ù', 'à', 'ò', 'è', 'ì'],
        // French.
        0b001 => ['é', 'ï', 'à', 'ë', 'ê', 'ù', 'î', '#', 'è', 'â', 'ô', 'û', 'ç'],
        // Portuguese, Spanish.
        0b101 => ['ç', '$', '¡', 'á', 'é', 'í', 'ó', 'ú', '¿', 'ü', 'ñ', 'è', 'à'],
        // Czech, Slovak.
        0b011 => ['#', 'ů', 'č', 'ť', 'ž', 'ý', 'í', 'ř', 'é', 'á', 'ě', 'ú', 'š'],
        // English, and what has no set of its own here.
        _ => ['£', '$', '@', '←', '½', '→', '↑', '#', '—', '¼', '‖', '¾', '÷'],
    };
    match PLACES.iter().position(|place| *place == code) {
        Some(at) => nation[at],
        None if code == 0x7f => '■',
        None => char::from(code),
    }
}

/// A letter of the second Latin set (table 37), as far as subtitles have it.
fn second(code: u8) -> Option<char> {
    let row = match code >> 4 {
        2 => " ¡¢£$¥#§¤‘“«←↑→↓",
        3 => "°±²³×µ¶·÷’”»¼½¾¿",
        5 => "─¹®©™♪₠‰∝   ⅛⅜⅝⅞",
        6 => "ΩÆĐªĦ ĲĿŁØŒºÞŦŊŉ",
        7 => "ĸæđðħıĳŀłøœßþŧŋ■",
        _ => return None,
    };
    row.chars().nth(usize::from(code & 0xf)).filter(|letter| *letter != ' ')
}

/// A letter with the nth mark of the second set's row 4; what has no letter of its own is given without.
fn accented(base: char, mark: u8) -> Option<char> {
    let (bases, letters) = match mark {
        1 => ("AEIOUaeiou", "ÀÈÌÒÙàèìòù"),
        2 => ("ACEILNORSUYZaceilnorsuyz", "ÁĆÉÍĹŃÓŔŚÚÝŹáćéíĺńóŕśúýź"),
        3 => ("ACEGHIJOSUWYaceghijosuwy", "ÂĈÊĜĤÎĴÔŜÛŴŶâĉêĝĥîĵôŝûŵŷ"),
        4 => ("AINOUainou", "ÃĨÑÕŨãĩñõũ"),
        5 => ("AEIOUaeiou", "ĀĒĪŌŪāēīōū"),
        6 => ("AGUagu", "ĂĞŬăğŭ"),
        7 => ("CEGIZcegz", "ĊĖĠİŻċėġż"),
        8 => ("AEIOUYaeiouy", "ÄËÏÖÜŸäëïöüÿ"),
        10 => ("AUau", "ÅŮåů"),
        11 => ("CGKLNRSTcgklnrst", "ÇĢĶĻŅŖŞŢçģķļņŗşţ"),
        13 => ("OUou", "ŐŰőű"),
        14 => ("AEIUaeiu", "ĄĘĮŲąęįų"),
        15 => ("CDELNRSTZcdelnrstz", "ČĎĚĽŇŘŠŤŽčďěľňřšťž"),
        _ => return Some(base),
    };
    let at = bases.chars().position(|letter| letter == base);
    Some(at.and_then(|at| letters.chars().nth(at)).unwrap_or(base))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: TeletextPage = TeletextPage { language: *b"deu", magazine: 1, page: 0x50, impaired: false };

    fn encode8(nibble: u8) -> u8 {
        (0..=255u8)
            .find(|byte| {
                let flipped = (0..8).all(|bit| hamming8(byte ^ 1 << bit) == Some(nibble));
                hamming8(*byte) == Some(nibble) && flipped
            })
            .unwrap()
    }

    fn encode24(value: u32) -> [u8; 3] {
        let data = (value & 1) << 2 | (value & 0xe) << 3 | (value & 0x7f0) << 4 | (value & 0x3f800) << 5;
        let checks = [0, 1, 3, 7, 15, 23];
        (0..64u32)
            .map(|set| data | checks.iter().enumerate().map(|(n, bit)| (set >> n & 1) << bit).sum::<u32>())
            .map(|word| [word as u8, (word >> 8) as u8, (word >> 16) as u8])
            .find(|bytes| hamming24(*bytes) == Some(value))
            .unwrap()
    }

    fn unit(magazine: u8, row: u8, data: [u8; COLUMNS]) -> Vec<u8> {
        let mut unit = vec![0x03, UNIT as u8, 0xff, FRAMING];
        let address = [encode8(magazine & 7 | (row & 1) << 3), encode8(row >> 1)];
        unit.extend(address.iter().chain(&data).map(|byte| byte.reverse_bits()));
        unit
    }

    fn header(page: u8, erase: bool, nation: u8) -> Vec<u8> {
        let mut data = [0x20; COLUMNS];
        let nibbles = [page & 0xf, page >> 4, 0, u8::from(erase) << 3, 0, 8, 0, nation << 1];
        data.iter_mut().zip(nibbles).for_each(|(byte, nibble)| *byte = encode8(nibble));
        unit(1, 0, data)
    }

    fn text(row: u8, text: &[u8]) -> Vec<u8> {
        let odd = |code: u8| if code.count_ones() % 2 == 1 { code } else { code | 0x80 };
        let mut data = [odd(0x20); COLUMNS];
        let boxed = [&[0x0d, 0x0b, 0x0b][..], text, &[0x0a, 0x0a]].concat();
        data.iter_mut().zip(boxed).for_each(|(byte, code)| *byte = odd(code));
        unit(1, row, data)
    }

    fn pes(units: &[Vec<u8>]) -> Pes {
        Pes { body: [&[0x10][..], &units.concat()].concat(), ..Pes::default() }
    }

    fn captions(teletext: &mut Teletext, units: &[Vec<u8>]) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        teletext.push(&pes(units), |page, caption| {
            assert_eq!(page, 0);
            found.push(caption.lines);
        });
        found
    }

    #[test]
    fn a_page_is_shown_and_taken_off() {
        let mut teletext = Teletext::new(&[PAGE]);
        let shown = [header(0x50, true, 0b100), text(20, b"Gr}~e aus"), text(22, b"M}nchen")];
        assert_eq!(captions(&mut teletext, &shown), [["Grüße aus", "München"]]);
        assert_eq!(captions(&mut teletext, &shown), Vec::<Vec<String>>::new(), "nothing has changed");
        // Another page of the magazine, and another magazine, are no news.
        assert!(captions(&mut teletext, &[header(0x51, true, 0), text(20, b"Index")]).is_empty());
        assert_eq!(captions(&mut teletext, &[header(0x50, true, 0b100)]), [Vec::<String>::new()]);
    }

    #[test]
    fn accented_letters_come_in_packets_of_their_own() {
        let mut teletext = Teletext::new(&[PAGE]);
        let mut data = [encode8(0); COLUMNS];
        // Row 20; at the fourth column a c with caron, at the fifth an ae.
        let triplets = [60 | 0x04 << 6, 3 | 0x1f << 6 | u32::from(b'c') << 11, 4 | 0x0f << 6 | 0x71 << 11];
        for (place, value) in data[1..].as_chunks_mut::<3>().0.iter_mut().zip(triplets) {
            *place = encode24(value);
        }
        let units = [header(0x50, true, 0), text(20, b"ca"), unit(1, 26, data)];
        assert_eq!(captions(&mut teletext, &units), [["čæ"]]);
    }

    #[test]
    fn one_wrong_bit_is_put_right_and_what_is_not_boxed_is_not_shown() {
        for nibble in 0..16 {
            assert_eq!(hamming8(encode8(nibble)), Some(nibble));
        }
        let mut teletext = Teletext::new(&[PAGE]);
        let mut plain = [b'a'; COLUMNS];
        plain[39] = 0x20;
        assert!(captions(&mut teletext, &[header(0x50, true, 0), unit(1, 3, plain)]).is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in prop::collection::vec(any::<u8>(), 0..600), seed in 0u8..32) {
            let mut teletext = Teletext::new(&[PAGE]);
            let mut units = pes(&[header(0x50, true, seed & 7), text(20, &body[..body.len().min(30)])]);
            units.body.extend(&body);
            teletext.push(&units, |_, caption| {
                assert!(caption.lines.len() < ROWS && caption.lines.iter().all(|line| line.chars().count() <= COLUMNS));
            });
        }
    }
}
