//! A MaxMind database (<https://maxmind.github.io/MaxMind-DB/>, version 2.0) made in memory.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// A database in the making: a tree of 128 bits, IPv4 under `::/96`.
pub struct Database {
    /// Where the country stands in a record.
    path: Vec<&'static str>,
    /// Both children of each node.
    nodes: Vec<[Child; 2]>,
    /// Offsets of the records.
    records: BTreeMap<String, usize>,
    data: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Child {
    None,
    Node(usize),
    Data(usize),
}

impl Database {
    pub fn new(path: &[&'static str]) -> Self {
        Self {
            path: path.to_vec(),
            nodes: vec![[Child::None; 2]],
            records: BTreeMap::new(),
            data: Vec::new(),
        }
    }

    pub fn insert(&mut self, prefix: &str, country: &str) {
        let (address, length) = prefix.split_once('/').unwrap();
        let length: usize = length.parse().unwrap();
        let (bits, length) = match address.parse().unwrap() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), length + 96),
            IpAddr::V6(v6) => (Ipv6Addr::to_bits(v6), length),
        };
        let data = self.record(country);
        let bit = |index: usize| (bits >> (127 - index) & 1) as usize;
        let mut node = 0;
        for index in 0..length - 1 {
            node = match self.nodes[node][bit(index)] {
                Child::Node(next) => next,
                _ => {
                    self.nodes.push([Child::None; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][bit(index)] = Child::Node(next);
                    next
                }
            };
        }
        self.nodes[node][bit(length - 1)] = Child::Data(data);
    }

    fn record(&mut self, country: &str) -> usize {
        if let Some(known) = self.records.get(country) {
            return *known;
        }
        let offset = self.data.len();
        for key in &self.path {
            self.data.extend(map(1));
            self.data.extend(text(key));
        }
        self.data.extend(text(country));
        self.records.insert(country.to_owned(), offset);
        offset
    }

    pub fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut bytes = Vec::new();
        for child in self.nodes.iter().flatten() {
            let record = match child {
                Child::None => count,
                Child::Node(node) => *node,
                Child::Data(offset) => count + 16 + offset,
            };
            bytes.extend(&(record as u32).to_be_bytes()[1..]);
        }
        bytes.extend([0; 16]);
        bytes.extend(&self.data);
        bytes.extend(b"\xab\xcd\xefMaxMind.com");
        bytes.extend(map(9));
        for (key, value) in [
            ("binary_format_major_version", number(2)),
            ("binary_format_minor_version", number(0)),
            // A 64-bit number, of an extended type.
            ("build_epoch", vec![1, 2, 1]),
            ("database_type", text("Test-Country")),
            ("description", map(0)),
            ("ip_version", number(6)),
            // An empty list, of an extended type.
            ("languages", vec![0, 4]),
            (
                "node_count",
                [vec![0xc4], (count as u32).to_be_bytes().to_vec()].concat(),
            ),
            ("record_size", number(24)),
        ] {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }
}

fn map(entries: u8) -> Vec<u8> {
    vec![7 << 5 | entries]
}

fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 29);
    [vec![2 << 5 | text.len() as u8], text.as_bytes().to_vec()].concat()
}

/// Of 16 bits.
fn number(number: u8) -> Vec<u8> {
    vec![5 << 5 | 1, number]
}
