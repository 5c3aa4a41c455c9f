//! Reads capture files (draft-ietf-opsawg-pcapng), and takes none that breaks a rule.

use std::collections::BTreeMap;

/// A capture file.
#[derive(Debug)]
pub struct Capture {
    /// Names of interfaces, in the order of their numbers.
    pub interfaces: Vec<String>,
    pub packets: Vec<Packet>,
}

/// A packet of a capture file.
#[derive(Debug)]
pub struct Packet {
    /// Name of the interface by which it came.
    pub interface: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Of the frame; fewer bytes of it may be here.
    pub length: usize,
    pub frame: Vec<u8>,
    pub comment: String,
    /// What XDP did with it (`enum xdp_action`).
    pub action: u64,
    /// Packets that are missing before it.
    pub lost: u64,
}

impl Packet {
    /// What the comment's first line says of `key`.
    #[must_use]
    pub fn says(&self, key: &str) -> Option<&str> {
        let words = self.comment.lines().next()?.split(' ');
        words
            .filter_map(|word| word.split_once('='))
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// Reads a file of one section, little endian, whose times are in nanoseconds.
///
/// # Panics
/// The file breaks a rule, or holds what `lb` does not write.
#[must_use]
pub fn read(mut bytes: &[u8]) -> Capture {
    let mut capture = Capture {
        interfaces: Vec::new(),
        packets: Vec::new(),
    };
    let (mut first, mut snaps) = (true, Vec::new());
    while !bytes.is_empty() {
        let length = word(bytes, 4) as usize;
        assert!(
            length >= 12 && length.is_multiple_of(4),
            "a block of {length} bytes"
        );
        assert_eq!(
            word(bytes, length - 4) as usize,
            length,
            "the length stands at both ends"
        );
        let (kind, body) = (word(bytes, 0), &bytes[8..length - 4]);
        assert_eq!(first, kind == SECTION, "one section, at the start");
        first = false;
        match kind {
            SECTION => {
                assert_eq!(word(body, 0), 0x1a2b_3c4d, "byte order");
                assert_eq!(word(body, 4), 1, "version 1.0");
                let _application = options(&body[16..]);
            }
            INTERFACE => {
                assert_eq!(word(body, 0), 1, "Ethernet");
                snaps.push(word(body, 4) as usize);
                let options = options(&body[8..]);
                assert_eq!(options[&9], [9], "nanoseconds");
                capture.interfaces.push(text(&options[&2]));
            }
            PACKET => capture.packets.push(packet(body, &capture.interfaces, &snaps)),
            other => panic!("a block of type {other}"),
        }
        bytes = &bytes[length..];
    }
    capture
}

fn packet(body: &[u8], interfaces: &[String], snaps: &[usize]) -> Packet {
    let number = word(body, 0) as usize;
    let (captured, length) = (word(body, 12) as usize, word(body, 16) as usize);
    assert!(
        captured <= length && captured <= snaps[number],
        "{captured} of {length} bytes"
    );
    let end = 20 + captured.next_multiple_of(4);
    assert!(
        body[20 + captured..end].iter().all(|byte| *byte == 0),
        "padded with zeros"
    );
    let options = options(&body[end..]);
    assert_eq!(options[&2], [1, 0, 0, 0], "inbound");
    let verdict = &options[&7];
    assert_eq!((verdict.len(), verdict[0]), (9, 2), "the verdict is one of XDP");
    let double = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    Packet {
        interface: interfaces[number].clone(),
        time: u64::from(word(body, 4)) << 32 | u64::from(word(body, 8)),
        length,
        frame: body[20..20 + captured].to_vec(),
        comment: text(&options[&1]),
        action: double(&verdict[1..]),
        lost: options.get(&4).map_or(0, |bytes| double(bytes)),
    }
}

/// Values of options, by their codes.
fn options(mut bytes: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let mut options = BTreeMap::new();
    loop {
        let (code, length) = (word(bytes, 0) as u16, (word(bytes, 0) >> 16) as usize);
        let end = 4 + length.next_multiple_of(4);
        if code == 0 {
            assert_eq!((length, bytes.len()), (0, 4), "nothing follows the end");
            return options;
        }
        assert!(
            bytes[4 + length..end].iter().all(|byte| *byte == 0),
            "padded with zeros"
        );
        let former = options.insert(code, bytes[4..4 + length].to_vec());
        assert_eq!(former, None, "option {code} twice");
        bytes = &bytes[end..];
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
