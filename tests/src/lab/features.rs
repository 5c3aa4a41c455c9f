//! Features of the lab's interfaces, such as segmentation offload: who compares two ways through a node compares them with
//! the same features.

use super::Lab;
use crate::netns::Netns;
use std::collections::BTreeMap;

/// What XDP on one end of a veth pair takes from the other: whoever sends to it segments.
const SEGMENTATION: [&str; 4] = [
    "tcp-segmentation-offload",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-gso-list",
];

/// The features of all interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features(BTreeMap<String, String>);

impl Features {
    /// Where they differ from others, in words; empty: nowhere.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let names = self
            .0
            .keys()
            .chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        let value = |features: &Self, name: &str| {
            let value = features.0.get(name);
            value.map_or_else(|| "not there".to_owned(), Clone::clone)
        };
        names
            .map(|name| (name, value(self, name), value(other, name)))
            .filter(|(_, own, other)| own != other)
            .map(|(name, own, other)| format!("{name} is {own}, not {other}"))
            .collect()
    }
}

impl Lab {
    /// The features of all interfaces now.
    ///
    /// # Panics
    /// `ethtool` does not tell.
    #[must_use]
    pub fn features(&self) -> Features {
        let origins = self
            .origins
            .iter()
            .map(|host| (host.name.clone(), &host.namespace));
        let between = self.between.iter().enumerate();
        let between = between.map(|(number, namespace)| (format!("between {number}"), namespace));
        let ends = [
            ("client".to_owned(), &self.client),
            ("node".to_owned(), &self.node),
        ];
        let mut features = BTreeMap::new();
        for (name, namespace) in ends.into_iter().chain(origins).chain(between) {
            for interface in interfaces(namespace) {
                let text = namespace.run("ethtool", &["--show-features", &interface]);
                // The first line is the title.
                for (feature, value) in text.lines().skip(1).filter_map(|line| line.split_once(':')) {
                    // Whether one may change it does not matter.
                    let value = value.split_whitespace().next().unwrap_or_default();
                    let title = format!("{} of {interface} of the {name}", feature.trim());
                    features.insert(title, value.to_owned());
                }
            }
        }
        Features(features)
    }

    /// Makes every packet pass the node by itself, as it does when XDP runs there: the node's neighbours segment what they
    /// send to it. For comparisons in [`Lab::routed`]; that the features are the same, [`Lab::features`] shows.
    pub fn pass_packet_by_packet(&self) {
        let (beside, interface) = self.beside_node();
        for (namespace, interface) in [(&self.client, "eth0"), (beside, interface)] {
            for feature in SEGMENTATION {
                namespace.offload(interface, feature, "off");
            }
        }
    }
}

/// Names of a namespace's interfaces, in order.
fn interfaces(namespace: &Netns) -> Vec<String> {
    let text = namespace.run("ip", &["-brief", "link"]);
    let names = text.lines().filter_map(|line| line.split(['@', ' ']).next());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_words() {
        let features = |rows: &[(&str, &str)]| {
            Features(
                rows.iter()
                    .map(|&(name, value)| (name.into(), value.into()))
                    .collect(),
            )
        };
        let own = features(&[("gro of eth0", "on"), ("tso of eth0", "on")]);
        assert_eq!(own.differences(&own), Vec::<String>::new());
        assert_eq!(
            own.differences(&features(&[
                ("gro of eth0", "on"),
                ("tso of eth0", "off"),
                ("lro", "on")
            ])),
            ["tso of eth0 is on, not off", "lro is not there, not on"]
        );
    }
}
