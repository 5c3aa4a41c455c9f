//! Objects by name, in the file's vocabulary: `/api/v1/monitors`, `monitor_groups`, `pools`, `load_balancers` and
//! `applications`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One object.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Object {
    pub id: String,
    /// By which it can be asked for.
    pub name: String,
    /// Where the configuration file declares it; `None`: it was made through the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<Declared>,
    /// Changes with the object.
    pub etag: String,
    /// What was set by hand instead of the file's values; by the origin's name for an origin, by the empty name for the
    /// object itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overridden: BTreeMap<String, Overridden>,
    /// As Cloudflare's API shows it.
    pub object: Value,
    /// In the file's vocabulary; in lists it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toml: Option<String>,
    /// Who refers to it, such as ``pool `eu` ``; in lists it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<String>,
}

/// A place in the configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Declared {
    pub file: String,
    /// Counted from 1.
    pub line: usize,
}

/// What holds instead of the file's values; what is left out is the file's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Overridden {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<f64>,
    /// RFC 3339.
    pub since: String,
}

impl Overridden {
    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        let enabled = self
            .enabled
            .map(|enabled| if enabled { "enabled" } else { "disabled" }.to_owned());
        let weight = self.weight.map(|weight| format!("weight {weight}"));
        let words: Vec<String> = enabled.into_iter().chain(weight).collect();
        format!("{} by hand", words.join(", "))
    }
}

/// `GET /api/v1/KIND`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Objects {
    pub objects: Vec<Object>,
}

/// Body of `POST /api/v1/KIND` and `PUT /api/v1/KIND/NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectText {
    /// One object in the file's vocabulary.
    pub toml: String,
    /// That of the object which it was made from: another change since is not overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// Body of `POST /api/v1/KIND/NAME/VERB`, which may be left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operand {
    /// Of `weight`: 0 to 1 in steps of 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Of `drain`, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
}
