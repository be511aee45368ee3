use proptest::prelude::*;

use super::*;

const HEX: &str = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";

/// The link that all of these are: with a title and a tracker.
fn whole() -> ChannelLink {
    link("magnet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070")
}

/// Reads a text in which HEX stands for the key.
fn read(text: &str) -> Result<Reading, Error> {
    text.replace("HEX", HEX).parse()
}

fn link(text: &str) -> ChannelLink {
    read(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).link
}

#[test]
fn reads_both_forms() {
    let magnet =
        link("magnet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070&xt=urn:btih:00");
    assert_eq!(magnet.title.as_deref(), Some("Radio Tower"));
    assert_eq!(magnet.trackers[0].as_str(), "http://tracker.example:7070/");
    let short = link("http://tracker.example:7070/c/HEX");
    assert_eq!((short.channel, &short.trackers), (magnet.channel, &magnet.trackers));
}

#[test]
fn a_scheme_of_its_own_stands_before_every_form() {
    for text in [
        "minuet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070",
        "MINUET:magnet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070",
        "minuet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr=http://tracker.example:7070",
    ] {
        assert_eq!(link(text), whole(), "{text}");
    }
    let short = link("http://tracker.example:7070/c/HEX");
    for text in ["minuet:http://tracker.example:7070/c/HEX", "minuet://tracker.example:7070/c/HEX"] {
        assert_eq!(link(text), short, "{text}");
    }
    assert_eq!(link("minuet:HEX"), link("HEX"));
    assert!(read("minuet:").is_err() && read("minuet:minuet:minuet:").is_err());
}

#[test]
fn an_announce_url_stands_for_its_tracker() {
    for text in
        ["http://t.example/announce", "http://t.example", "http://t.example/?x#y", " http://t.example\n"]
    {
        assert_eq!(parse_tracker(text).unwrap().as_str(), "http://t.example/");
    }
    assert_eq!(parse_tracker("http://t.example/a/announce").unwrap().as_str(), "http://t.example/a/");
    let key = "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e";
    for text in [format!("http://t.example/a/c/{key}"), format!("\"http://t.example/a/c/{key}/\"")] {
        assert_eq!(parse_tracker(&text).unwrap().as_str(), "http://t.example/a/");
    }
    assert_eq!(parse_tracker("<http://t.example/c/d>").unwrap().as_str(), "http://t.example/c/d/");
    assert_eq!(parse_tracker("http://[::1]:7070").unwrap().as_str(), "http://[::1]:7070/");
    assert!(parse_tracker("t.example:7070").unwrap_err().to_string().contains("write http://t.example:7070"));
}

#[test]
fn what_is_no_link_is_refused() {
    let other = HEX.replace('8', "9");
    let long = "x".repeat(MAX_LINK_LENGTH);
    for text in [
        "",
        "magnet:?",
        "magnet:?xs=urn:btpk:12",
        "magnet:?dn=Radio+Tower",
        "ftp://t.example/c/00",
        "http://t.example/d/00",
        "http://t.example/",
        "http://t.example/c/",
        "https://t.example/c/HEX0",
        "/c/HEX",
        "HEX0",
        &format!("magnet:?xs=urn:btpk:HEX&xs=urn:btpk:{other}"),
        &format!("magnet:?xs=urn:btpk:HEX&dn={long}"),
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn the_sentence_says_what_is_wrong_with_the_key() {
    let why = |text: &str| read(text).unwrap_err().to_string();
    assert!(why("magnet:?xs=urn:btpk:8543d3e6").contains("8 of 64"));
    assert!(why(&format!("http://t.example/c/{}", &HEX[..40])).contains("40 of 64"));
    assert!(why(&HEX[..30]).contains("30 of 64"));
    let wrong = format!("{}g{}", &HEX[..20], &HEX[21..]);
    for text in [format!("magnet:?xs=urn:btpk:{wrong}"), format!("http://t.example/c/{wrong}")] {
        assert!(why(&text).contains("character 21 of its key is 'g'"), "{}", why(&text));
    }
    assert!(why(&format!("http://t.example/c/{}/events", &HEX[..40])).contains("40 of 64"));
    assert!(why("magnet:?xs=urn:btpk:HEXabc").contains("more than 64"));
    assert!(
        why("magnet:?xt=urn:btih:8543d3e6115f0f98c944077a4493dcd543e49c73&dn=x")
            .contains("BitTorrent client")
    );
    assert!(why("http://t.example:7070").contains("names no channel"));
}

#[test]
fn a_hint_of_no_use_is_passed_over_and_named() {
    for (bad, named, why) in [
        (
            "udp%3A%2F%2Ftracker.example%3A6969%2Fannounce",
            "udp://tracker.example:6969/announce",
            "not by udp",
        ),
        ("wss%3A%2F%2Ftracker.example", "wss://tracker.example", "not by wss"),
        ("%3C%21DOCTYPE%20html%3E", "<!DOCTYPE", "neither"),
        ("", "a tracker", "empty"),
        ("http%3A%2F%2F", "http://", "no URL"),
        ("http%3A%2F%2Ft%3A0", "http://t:0", "no URL"),
        ("file%3A%2F%2F%2Fetc%2Fpasswd", "file:///etc/passwd", "neither"),
        ("tracker.example%3A7070", "tracker.example:7070", "neither"),
    ] {
        for text in [
            format!("magnet:?xs=urn:btpk:HEX&dn=Radio+Tower&tr={bad}&tr=http%3A%2F%2Ftracker.example%3A7070"),
            format!("magnet:?tr.1=http://tracker.example:7070&dn=Radio+Tower&tr.2={bad}&xs.1=urn:btpk:HEX"),
        ] {
            let reading = read(&text).unwrap();
            assert_eq!(reading.link, whole(), "{text}");
            let said = reading.passed_over.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(said.len(), 1, "{text}");
            assert!(said[0].starts_with(named) && said[0].contains(why), "{text}: {said:?}");
        }
    }
    let reading = read("magnet:?xs=urn:btpk:HEX&tr=udp%3A%2F%2Ft").unwrap();
    assert!(reading.link.trackers.is_empty() && reading.passed_over.len() == 1 && !reading.ends_after_key);
}

#[test]
fn a_broken_key_does_not_spoil_a_good_one_nor_a_bad_title_the_rest() {
    for text in [
        "magnet:?xs=urn:btpk:12&xs=urn:btpk:HEX&dn=Radio+Tower&tr=http://tracker.example:7070",
        "magnet:?xs=urn:btpk:HEX&xs=urn:btih:zz&dn=Radio+Tower&tr=http://tracker.example:7070",
        "magnet:?xs=urn:btpk:HEX&dn=%1b%e2%80%ae&dn=Radio%e2%80%ae+Tower&tr=http://tracker.example:7070",
    ] {
        assert_eq!(link(text), whole(), "{text}");
    }
    assert_eq!(read("magnet:?xs=urn:btpk:12&xs=urn:btpk:HEX").unwrap().passed_over.len(), 1);
}

#[test]
fn secrets_in_a_hint_of_no_use_are_not_shown() {
    let reading = read("magnet:?xs=urn:btpk:HEX&tr=udp://alice:hunter2@t.example/").unwrap();
    assert!(!reading.passed_over[0].to_string().contains("hunter2"));
}

#[test]
fn there_is_an_end_to_hints() {
    let many: String = (1..=40).map(|port| format!("&tr=http://t.example:{port}")).collect();
    let reading = read(&format!("magnet:?xs=urn:btpk:HEX{many}")).unwrap();
    assert_eq!(reading.link.trackers.len(), MAX_TRACKERS);
    assert_eq!(reading.passed_over.len(), MAX_TOLD + 1);
    assert!(reading.passed_over.last().unwrap().hint == format!("{} more", 40 - MAX_TRACKERS - MAX_TOLD));
}

#[test]
fn links_are_read_as_mails_pages_and_shells_leave_them() {
    let plain = format!("magnet:?xs=urn:btpk:{HEX}&dn=Radio+Tower&tr=http%3A%2F%2Ftracker.example%3A7070");
    let (first, second) = HEX.split_at(30);
    for text in [
        // HTML.
        plain.replace('&', "&amp;"),
        plain.replace('&', "&amp;amp;"),
        plain.replace('&', "&#38;"),
        plain.replace('&', "&#x26;"),
        format!("<a href=\"{}\">Watch</a>", plain.replace('&', "&amp;")),
        format!("&lt;{}&gt;", plain.replace('&', "&amp;")),
        plain.replace(first, &format!("{first}<wbr>")),
        plain.replace(first, &format!("{first}&shy;")),
        // JSON, Markdown, shells.
        format!("{{\"link\":\"{}\"}}", plain.replace('&', "\\u0026")),
        format!("[watch]({plain}), tonight"),
        format!("`{plain}`"),
        format!("**{plain}**"),
        plain.replace('&', "\\&").replace('?', "\\?").replace('=', "\\="),
        format!("'{plain}'"),
        format!("minuet watch '{plain}' --delay 2s"),
        // Sentences.
        format!("Watch it here: {plain}."),
        format!("(see {plain})"),
        format!("({plain}) and more"),
        format!("<{plain}>"),
        format!("<URL:{plain}>,"),
        format!("“{plain}”!"),
        format!("«{plain}»;"),
        format!(" {plain}\n"),
        format!("{plain} tonight at nine"),
        format!("{plain}\n\nSee you"),
        format!("{plain}\nSee you there"),
        // Line breaks and soft hyphens in the middle.
        plain.replace(first, &format!("{first}\n")),
        plain.replace(first, &format!("{first}\r\n  ")),
        plain.replace(first, &format!("{first}\u{ad}")),
        plain.replace(first, &format!("{first}\u{200b}")),
        plain.replace("&tr", "\n&tr"),
        plain.replace("&tr", "&\ntr"),
        plain.replace("tracker.ex", "tracker.\nex"),
        plain.replace("%3A7070", "%3\nA7070"),
        format!("> {}", plain.replace(first, &format!("{first}\n> "))),
        // Quoted-printable.
        plain.replace('=', "=3D").replace(first, &format!("{first}=\r\n")),
        plain.replace('=', "=3D").replace('&', "=26").replace(':', "=3A").replace('?', "=3f"),
        plain.replace('=', "=3D").replace('&', "&amp;").replace(first, &format!("{first}= ")),
        // Its escapes were undone, and the line break was left.
        plain.replace(first, &format!("{first}=\n")),
        // Encoded as a whole, or the less usual ways.
        plain.replace("urn:btpk:", "urn%3Abtpk%3A"),
        plain.replace("urn:btpk:", "urn%3abtpk%3a"),
        form_urlencoded::byte_serialize(plain.as_bytes()).collect(),
        format!(
            "https://out.example/?url={}",
            form_urlencoded::byte_serialize(plain.as_bytes()).collect::<String>()
        ),
        plain.replace("magnet:?", "magnet://?"),
        plain.replace("magnet:?", "magnet:"),
        plain.replace("magnet:?", "web+magnet:?"),
        plain.replace("magnet:?", ""),
        plain.replace("magnet:?", "?"),
        plain
            .replace("magnet:?", "MAGNET:?")
            .replace("xs=urn:btpk:", "XS=URN:BTPK:")
            .replace(HEX, &HEX.to_uppercase()),
        plain.replace("&tr=", "&TR="),
        plain.replace("&tr=", ";tr="),
        plain.replace("&tr=", "&amp;;tr="),
        format!("{plain}&"),
        format!("{plain}&tr=http://TRACKER.example:7070/announce"),
        format!("\u{feff}{plain}"),
    ] {
        assert_eq!(link(&text), whole(), "{text:?}");
    }
    let _ = second;
}

#[test]
fn the_short_form_is_read_with_whatever_hangs_on_it() {
    let bare = link("http://tracker.example:7070/c/HEX");
    for text in [
        "http://tracker.example:7070/c/HEX/",
        "http://tracker.example:7070/c/HEX?utm_source=mail",
        "http://tracker.example:7070/c/HEX/?x=/c/#top",
        "http://tracker.example:7070/c/HEX#live",
        "http://tracker.example:7070/c/HEX/events",
        "http://tracker.example:7070/C/HEX",
        "hxxp://tracker[.]example:7070/c/HEX",
        "http://tracker.example:7070/c/HEX).",
        "HTTP://TRACKER.example:7070/c/HEX",
        "<http://tracker.example:7070/c/HEX>",
        "http://tracker.example:7070/c/HEX\nand so on",
        "http%3A%2F%2Ftracker.example%3A7070%2Fc%2FHEX",
        "https://out.example/?url=http%3A%2F%2Ftracker.example%3A7070%2Fc%2FHEX&data=05",
        "tracker.example:7070/c/HEX",
        "Watch http://tracker.example:7070/c/HEX, tonight",
    ] {
        assert_eq!(link(text), bare, "{text:?}");
    }
    assert_eq!(link(&format!("http://tracker.example:7070/c/{}", HEX.to_uppercase())), bare);
    assert_eq!(
        link("https://[2001:db8::1]/minuet/c/HEX").trackers[0].as_str(),
        "https://[2001:db8::1]/minuet/"
    );
}

#[test]
fn a_tracker_may_lie_below_a_path_like_a_channels() {
    let below = link("http://t.example/c/c/HEX");
    assert_eq!(below.trackers[0].as_str(), "http://t.example/c/");
    assert!(read("http://t.example/c/x/c/12").unwrap_err().to_string().contains("0 of 64"));
}

#[test]
fn a_key_alone_is_a_link_without_trackers() {
    for text in ["HEX", " HEX\n", "urn:btpk:HEX", "<HEX>.", &HEX.to_uppercase()] {
        let reading = read(text).unwrap();
        assert_eq!((reading.link.channel, reading.link.trackers), (HEX.parse().unwrap(), vec![]), "{text}");
        assert!(!reading.ends_after_key, "{text}: nobody cut it");
    }
}

#[test]
fn a_link_that_a_shell_cut_is_recognised() {
    assert!(read("magnet:?xs=urn:btpk:HEX").unwrap().ends_after_key);
    assert!(read("magnet:?xs=urn:btpk:HEX&").unwrap().ends_after_key);
    assert!(!read("magnet:?xs=urn:btpk:HEX&dn=Radio").unwrap().ends_after_key);
}

proptest! {
    #[test]
    fn links_out_of_a_mails_source_are_read_wherever_its_lines_end(
        key: [u8; 32],
        title in "[a-zü =.&]{0,20}",
        at in 0usize..300,
        path in "[a-z]{0,6}",
        padded: bool,
    ) {
        let tracker = parse_tracker(&format!("http://t.example:7070/{path}")).unwrap();
        let channel = ChannelId::new(key);
        let title = Some(clean_title(&title)).filter(|title| !title.is_empty());
        let whole = ChannelLink { channel, title, trackers: vec![tracker.clone()] };
        let short = ChannelLink { title: None, ..whole.clone() };
        for (text, meant) in [(whole.to_string(), &whole), (format!("{tracker}c/{channel}"), &short)] {
            // No encoder breaks a line within an escape.
            let mut pieces: Vec<String> =
                text.chars().map(|c| if c == '=' { "=3D".to_owned() } else { c.to_string() }).collect();
            let end = if padded { "= \r\n" } else { "=\r\n" };
            pieces.insert(1 + at % pieces.len(), end.to_owned());
            prop_assert_eq!(&pieces.concat().parse::<ChannelLink>().unwrap(), meant);
        }
    }

    #[test]
    fn links_round_trip(key: [u8; 32], title in "[^\\pC]{1,40}", ports in prop::collection::btree_set(1u16.., 0..5)) {
        let link = ChannelLink {
            channel: ChannelId::new(key),
            title: Some(clean_title(&title)).filter(|title| !title.is_empty()),
            trackers: ports.iter().map(|p| parse_tracker(&format!("http://t.example:{p}")).unwrap()).collect(),
        };
        prop_assert_eq!(link.to_string().parse::<ChannelLink>(), Ok(link));
    }

    #[test]
    fn a_line_break_anywhere_does_no_harm(at in 0usize..200, title in "[A-Za-z ]{0,20}") {
        let link = ChannelLink {
            channel: HEX.parse().unwrap(),
            title: Some(clean_title(&title)).filter(|title| !title.is_empty()),
            trackers: vec![parse_tracker("http://tracker.example:7070").unwrap()],
        };
        let mut text = link.to_string();
        // Behind the scheme, by which the link is found.
        let at = 8 + at % (text.len() - 8);
        text.insert_str(at, "\r\n");
        prop_assert_eq!(text.parse::<ChannelLink>(), Ok(link));
    }

    #[test]
    fn garbage_never_panics(text in ".{0,200}", hex in "[0-9a-f]{64}") {
        let _ = text.parse::<Reading>();
        let _ = format!("magnet:?xs=urn:btpk:{hex}&{text}").parse::<Reading>();
        let _ = format!("{text}magnet:{text}xs=urn:btpk:{hex}{text}").parse::<Reading>();
        let _ = format!("http://{text}/c/{hex}").parse::<Reading>();
        let _ = format!("{text}/c/{hex}{text}").parse::<Reading>();
        let _ = parse_tracker(&text);
    }
}
