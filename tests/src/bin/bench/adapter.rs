//! What the benchmark must know of a balancer that is not lb: a file of TOML that somebody writes by hand.

use crate::cases;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;

/// One such file.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The program that would be attached to an interface.
    pub entry: String,
    /// Entries of maps that shall be larger or smaller than the object says.
    #[serde(default)]
    pub sizes: BTreeMap<String, u32>,
    /// Values of global variables, by their symbols.
    #[serde(default)]
    pub globals: BTreeMap<String, Bytes>,
    /// Programs that others call by tail calls.
    #[serde(default)]
    pub programs: Vec<Call>,
    /// What the maps hold, in the order of writing.
    #[serde(default)]
    pub entries: Vec<Entry>,
    pub cases: Vec<Served>,
}

/// A program's place in a map of programs.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub map: String,
    pub index: u32,
    pub program: String,
}

/// An entry of a map, or many that follow a rule.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub map: String,
    pub key: Bytes,
    pub value: Bytes,
    /// So many, of which the first has `n` = 0.
    #[serde(default = "once")]
    pub repeat: u32,
}

fn once() -> u32 {
    1
}

/// Cases that it can do, and what becomes of their packets.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// As the table of the benchmark has them.
    pub names: Vec<Name>,
    pub action: Action,
    /// Bytes that a frame grows by, at its head.
    #[serde(default)]
    pub growth: u32,
    /// Whether one is taken from the TTL or hop limit: of a tunnelled packet, from the inner one.
    #[serde(default)]
    pub takes_ttl: bool,
}

/// A case's name.
#[derive(Deserialize, PartialEq, Debug)]
#[serde(try_from = "String")]
pub struct Name(pub String);

/// What a program returns.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
pub struct Action(pub u32);

/// Bytes of a key or a value, written as pieces.
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(try_from = "String")]
pub struct Bytes {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Debug)]
enum Piece {
    Plain(Vec<u8>),
    Number { kind: &'static Kind, number: Number },
}

/// How a number is written to memory.
#[derive(PartialEq, Debug)]
struct Kind {
    name: &'static str,
    bytes: usize,
    big: bool,
}

const fn kind(name: &'static str, bytes: usize, big: bool) -> Kind {
    Kind { name, bytes, big }
}

const KINDS: [Kind; 8] = [
    kind("u8", 1, false),
    kind("u16", 2, cfg!(target_endian = "big")),
    kind("u32", 4, cfg!(target_endian = "big")),
    kind("u64", 8, cfg!(target_endian = "big")),
    kind("be16", 2, true),
    kind("be32", 4, true),
    kind("be64", 8, true),
    kind("le32", 4, false),
];

const PIECES: &str = "write pieces with commas between them: `u8 6`, `u16 1`, `u32 1`, `u64 1` (the machine's order), `be16 443`, \
    `be32 1`, `be64 1` (the network's), `le32 1`, `ip 203.0.113.10` (4 bytes) or `ip fd00::1` (16), `mac 02:00:00:00:00:01`, \
    `hex 0a0b` and `zero 12` (so many bytes of zeros)";
const NUMBERS: &str =
    "write a number (`7`, `0x1f`), or where the entry is repeated `n`, `n+1`, `n%2` or `n%2+1`";
/// A value of the kernel is never longer; more is a mistake.
const MOST_ZEROS: usize = 1 << 16;
/// Rows of one rule.
const MOST_ROWS: u32 = 1 << 24;

/// `n % modulus + offset`, or `offset` alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Number {
    varies: bool,
    modulus: Option<u64>,
    offset: u64,
}

impl Adapter {
    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read, or says what makes no sense: where, and what to write instead.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read the adapter {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("the adapter {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let adapter: Self = toml::from_str(text)?;
        adapter.check()?;
        Ok(adapter)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            self.cases.iter().any(|served| !served.names.is_empty()),
            "`cases` names none: nothing would be measured; add the name of a case, such as `tcp v4 in, dsr_l2`"
        );
        let mut seen = Vec::new();
        for Name(name) in self.cases.iter().flat_map(|served| &served.names) {
            ensure!(
                !seen.contains(&name),
                "`cases`: `{name}` stands there twice: packets of a case go one way; remove one of the two"
            );
            seen.push(name);
        }
        for served in &self.cases {
            ensure!(
                served.growth <= cases::MOST_GROWTH,
                "`growth` = {}: frames may grow by {} bytes at most; give the bytes that stand before the former frame",
                served.growth,
                cases::MOST_GROWTH
            );
        }
        for (name, value) in &self.globals {
            value
                .write(0, 1)
                .with_context(|| format!("the global `{name}`"))?;
        }
        for entry in &self.entries {
            let Entry { map, repeat, .. } = entry;
            ensure!(
                (1..=MOST_ROWS).contains(repeat),
                "an entry of `{map}`: `repeat` = {repeat}: 1 to {MOST_ROWS} entries can follow a rule; leave it out for one entry"
            );
            for bytes in [&entry.key, &entry.value] {
                // A number grows with `n` until its modulus is reached.
                bytes
                    .write(repeat - 1, *repeat)
                    .with_context(|| format!("an entry of `{map}`"))?;
            }
        }
        Ok(())
    }

    /// What becomes of a case's packets, when it can do it.
    pub fn served(&self, name: &str) -> Option<&Served> {
        let mut served = self.cases.iter();
        served.find(|served| served.names.iter().any(|Name(own)| own == name))
    }
}

impl Bytes {
    /// As the adapter has it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Those of entry number `n` of `repeat`.
    ///
    /// # Errors
    /// A number does not fit, or varies where nothing is repeated.
    pub fn write(&self, n: u32, repeat: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Plain(plain) => bytes.extend_from_slice(plain),
                Piece::Number { kind, number } => {
                    ensure!(
                        repeat > 1 || !number.varies,
                        "`{}`: `n` counts entries that are repeated; add `repeat`, or write a number",
                        self.text
                    );
                    kind.check(number.most(n), &self.text)?;
                    let value = number.at(n);
                    if kind.big {
                        bytes.extend_from_slice(&value.to_be_bytes()[8 - kind.bytes..]);
                    } else {
                        bytes.extend_from_slice(&value.to_le_bytes()[..kind.bytes]);
                    }
                }
            }
        }
        Ok(bytes)
    }
}

impl Kind {
    fn check(&self, value: u64, text: &str) -> Result<()> {
        let bits = 8 * self.bytes as u32;
        ensure!(
            bits == u64::BITS || value >> bits == 0,
            "`{text}`: {value} does not fit into {}, which has {bits} bits; take a wider piece or a smaller number",
            self.name
        );
        Ok(())
    }
}

impl Number {
    fn at(self, n: u32) -> u64 {
        let n = if self.varies { u64::from(n) } else { 0 };
        let n = self.modulus.map_or(n, |modulus| n % modulus);
        n.saturating_add(self.offset)
    }

    /// The largest up to entry `n`.
    fn most(self, n: u32) -> u64 {
        match self.modulus {
            Some(modulus) if u64::from(n) >= modulus => (modulus - 1).saturating_add(self.offset),
            _ => self.at(n),
        }
    }
}

impl FromStr for Number {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |text: &str| {
            let text = text.trim();
            let number = match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            number.with_context(|| format!("`{text}` is no number: {NUMBERS}"))
        };
        let Some(rest) = text.trim().strip_prefix('n') else {
            return Ok(Self {
                varies: false,
                modulus: None,
                offset: plain(text)?,
            });
        };
        let (modulus, offset) = match rest.split_once('+') {
            Some((modulus, offset)) => (modulus, plain(offset)?),
            None => (rest, 0),
        };
        let modulus = match (modulus.trim().strip_prefix('%'), modulus.trim()) {
            (Some(modulus), _) => Some(plain(modulus)?),
            (None, "") => None,
            (None, _) => bail!("`{}` is no number: {NUMBERS}", text.trim()),
        };
        ensure!(
            modulus != Some(0),
            "`{}` divides by 0: give the number of different values",
            text.trim()
        );
        Ok(Self {
            varies: true,
            modulus,
            offset,
        })
    }
}

impl FromStr for Piece {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim();
        if let Some(kind) = KINDS.iter().find(|kind| kind.name == word) {
            let number: Number = rest.parse()?;
            if !number.varies {
                kind.check(number.offset, text)?;
            }
            return Ok(Self::Number { kind, number });
        }
        Ok(Self::Plain(match word {
            "ip" => match rest.parse() {
                Ok(std::net::IpAddr::V4(address)) => address.octets().into(),
                Ok(std::net::IpAddr::V6(address)) => address.octets().into(),
                Err(_) => bail!("`{rest}` is no address: write one such as `203.0.113.10` or `fd00::1`"),
            },
            "mac" => {
                let parts = rest.split(':').map(|part| octet(part, "mac"));
                let bytes = parts.collect::<Result<Vec<u8>>>()?;
                ensure!(
                    bytes.len() == 6,
                    "`{rest}` has {} octets: a link address has 6, such as `02:00:00:00:00:01`",
                    bytes.len()
                );
                bytes
            }
            "hex" => {
                let digits: Vec<char> = rest.chars().filter(|sign| !sign.is_whitespace()).collect();
                ensure!(
                    digits.len().is_multiple_of(2),
                    "`{rest}` has an odd number of digits: each byte has two, such as `0a0b`"
                );
                let pairs = digits
                    .chunks(2)
                    .map(|pair| octet(&pair.iter().collect::<String>(), "hex"));
                pairs.collect::<Result<_>>()?
            }
            "zero" => match rest.parse() {
                Ok(count) if count <= MOST_ZEROS => vec![0; count],
                _ => bail!("`{rest}` is no number of bytes: write one up to {MOST_ZEROS}, such as `zero 12`"),
            },
            _ => bail!("`{text}` is no piece: {PIECES}"),
        }))
    }
}

/// Two hexadecimal digits.
fn octet(text: &str, what: &str) -> Result<u8> {
    let octet = u8::from_str_radix(text, 16).ok().filter(|_| text.len() == 2);
    octet.with_context(|| {
        format!("`{text}` in `{what}` is no octet: write two hexadecimal digits, such as `0a`")
    })
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(|part| part.trim().parse());
        let pieces = parts.collect::<Result<_>>();
        let pieces = pieces.map_err(|error: anyhow::Error| format!("{error:#}"))?;
        Ok(Self { text, pieces })
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = cases::foreign();
        if known.contains(&name) {
            return Ok(Self(name));
        }
        Err(format!(
            "`{name}` is no case that another balancer can be measured with: write one of `{}`",
            known.join("`, `")
        ))
    }
}

impl TryFrom<String> for Action {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let known = cases::ACTIONS.iter().position(|known| *known == name);
        let known = known.map(|action| Self(action as u32));
        known.ok_or_else(|| {
            format!(
                "`{name}` is no action of XDP: write what the program returns, one of {}",
                cases::ACTIONS.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Real, RingVip};
    use crate::frame::{NODE_MAC, Numbered, ORIGIN, ORIGIN_MAC, SNAT};
    use crate::layout::{Door, Shape};
    use crate::modes::Mode;
    use lb_common::abi::Protocol;
    use lb_common::datapath::family::V4;

    const RING: &str = include_str!("../../../adapters/ring.toml");

    #[test]
    fn the_example_fills_the_ring() {
        let adapter = Adapter::parse(RING).unwrap();
        assert_eq!(adapter.entry, "floor_ring4");
        let [tcp, _, slots, reals] = adapter.entries.as_slice() else {
            panic!("other entries: {:?}", adapter.entries)
        };
        let vip = RingVip {
            address: [0, 0, 0, V4::numbered(Shape::usual(1).vip(Mode::L2)).0],
            port: Door::Open.port().to_be(),
            protocol: Protocol::TCP.0,
            reserved: 0,
        };
        assert_eq!(tcp.key.write(0, 1).unwrap(), bytemuck::bytes_of(&vip));
        assert_eq!(slots.repeat, crate::abi::RING_SIZE);
        assert_eq!(slots.key.write(7, slots.repeat).unwrap(), 7_u32.to_ne_bytes());
        assert_eq!(slots.value.write(7, slots.repeat).unwrap(), 1_u32.to_ne_bytes());
        let real = Real {
            address: [0, 0, 0, V4::numbered(ORIGIN).0],
            source: [0, 0, 0, V4::numbered(SNAT).0],
            mac: ORIGIN_MAC,
            node_mac: NODE_MAC,
        };
        assert_eq!(reals.value.write(1, 2).unwrap(), bytemuck::bytes_of(&real));
        let served = adapter.served("udp v4 in, dsr_l2").unwrap();
        assert_eq!(
            (served.action.0, served.growth, served.takes_ttl),
            (cases::TX, 0, false)
        );
        assert!(adapter.served("udp v6 in, dsr_l2").is_none());
    }

    #[test]
    fn pieces_are_written_as_they_say() {
        let bytes = |text: &str| Bytes::try_from(text.to_owned()).unwrap().write(5, 10).unwrap();
        assert_eq!(bytes("be16 443, u8 0x11, zero 2"), [1, 187, 17, 0, 0]);
        assert_eq!(
            bytes("ip 192.0.2.1, mac 02:00:00:00:00:0a"),
            [192, 0, 2, 1, 2, 0, 0, 0, 0, 10]
        );
        assert_eq!(bytes("ip ::1").len(), 16);
        assert_eq!(
            bytes("be32 n, le32 n%4+2, hex 0a 0B"),
            [0, 0, 0, 5, 3, 0, 0, 0, 10, 11]
        );
    }

    /// What is said of the example after a change.
    fn refusal(from: &str, to: &str) -> String {
        assert!(RING.contains(from));
        let text = RING.replacen(from, to, 1);
        format!("{:#}", Adapter::parse(&text).unwrap_err())
    }

    #[test]
    fn mistakes_are_named_with_a_remedy() {
        let said = |from: &str, to: &str, words: &[&str]| {
            let refusal = refusal(from, to);
            for words in words {
                assert!(refusal.contains(words), "{words} is not in: {refusal}");
            }
        };
        said(
            "be16 443",
            "be61 443",
            &["key = ", "`be61 443` is no piece", "`be16 443`"],
        );
        said(
            "be16 443",
            "be16 65536",
            &["65536 does not fit into be16, which has 16 bits", "wider"],
        );
        said(
            "u8 6",
            "u8 n",
            &["`n` counts entries that are repeated", "add `repeat`"],
        );
        said("u32 n%2", "u8 n", &["2047 does not fit into u8"]);
        said("u32 n%2", "u32 n%0", &["divides by 0"]);
        said("repeat = 2048", "repeat = 0", &["`RING_SLOTS`", "`repeat` = 0"]);
        said("ip 203.0.113.12", "ip 203.0.113", &["`203.0.113` is no address"]);
        said("00:a1", "00", &["has 5 octets", "a link address has 6"]);
        said(
            "\"TX\"",
            "\"XDP_TX\"",
            &["action = ", "`XDP_TX` is no action", "REDIRECT"],
        );
        said("growth = 0", "growth = 1500", &["`growth` = 1500", "at most"]);
        said("growth = 0", "grows = 0", &["unknown field `grows`", "`growth`"]);
        said(
            "tcp v4 in, dsr_l2",
            "tcp v4 in, dsr",
            &["names = ", "`tcp v4 in, dsr` is no case", "`tcp v4 in`"],
        );
        said("tcp v4 in, dsr_l2", "udp v4 in, dsr_l2", &["stands there twice"]);
        said(
            "[\"tcp v4 in, dsr_l2\", \"udp v4 in, dsr_l2\"]",
            "[]",
            &["`cases` names none"],
        );
        said("entry = ", "entrance = ", &["unknown field `entrance`"]);
    }
}
