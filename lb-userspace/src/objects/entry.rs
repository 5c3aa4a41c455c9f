//! One object with what the API tells about it.

use crate::cloudflare::{Application, LoadBalancer, Monitor, MonitorGroup, Object, Pool};
use crate::config::{Document, Kind};
use crate::store::Row;
use crate::wire::rfc3339_micros;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

/// 32 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(String);

impl Id {
    /// An id of 128 random bits.
    #[must_use]
    pub fn random(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    /// The id of an object of the file: always the same for the same kind and name.
    #[must_use]
    pub fn of_file(kind: Kind, name: &str) -> Self {
        // FNV-1a with 128 bits: names are the operator's own, nobody aims at collisions.
        let bytes = kind.table().bytes().chain([0]).chain(name.bytes());
        let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
        Self(format!("{hash:032x}"))
    }

    /// An id that a client has written; `None` when it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 32 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object of one of the kinds.
#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    Monitor(Monitor),
    MonitorGroup(MonitorGroup),
    Pool(Pool),
    LoadBalancer(LoadBalancer),
    Application(Application),
}

/// An object of the catalog.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    pub id: Id,
    /// Who declares it.
    pub document: Document,
    /// Its name in the file's vocabulary.
    pub name: String,
    /// Microseconds since 1970.
    pub created: u64,
    pub modified: u64,
    /// Of a pool, by name: what its origins are known by that have been renamed.
    pub first_names: BTreeMap<String, String>,
    pub body: Body,
}

/// An object as a row of the store.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    created: u64,
    modified: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    first_names: BTreeMap<String, String>,
    body: Value,
}

impl Body {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Monitor(_) => Kind::Monitor,
            Self::MonitorGroup(_) => Kind::MonitorGroup,
            Self::Pool(_) => Kind::Pool,
            Self::LoadBalancer(_) => Kind::LoadBalancer,
            Self::Application(_) => Kind::Application,
        }
    }

    /// The body as it was read.
    ///
    /// # Errors
    /// When it is not of that kind.
    pub fn from_json(kind: Kind, body: Value) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::Monitor => Self::Monitor(serde_json::from_value(body)?),
            Kind::MonitorGroup => Self::MonitorGroup(serde_json::from_value(body)?),
            Kind::Pool => Self::Pool(serde_json::from_value(body)?),
            Kind::LoadBalancer => Self::LoadBalancer(serde_json::from_value(body)?),
            Kind::Application => Self::Application(serde_json::from_value(body)?),
        })
    }

    /// With the defaults that depend on other fields.
    #[must_use]
    pub fn completed(mut self) -> Self {
        match &mut self {
            Self::Monitor(body) => body.complete(),
            Self::MonitorGroup(body) => body.complete(),
            Self::Pool(body) => body.complete(),
            Self::LoadBalancer(body) => body.complete(),
            Self::Application(body) => body.complete(),
        }
        self
    }

    /// All fields with their values.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let value = match self {
            Self::Monitor(body) => serde_json::to_value(body),
            Self::MonitorGroup(body) => serde_json::to_value(body),
            Self::Pool(body) => serde_json::to_value(body),
            Self::LoadBalancer(body) => serde_json::to_value(body),
            Self::Application(body) => serde_json::to_value(body),
        };
        match value {
            Ok(Value::Object(fields)) => fields,
            // Structs with text keys always are.
            Ok(_) | Err(_) => Map::new(),
        }
    }

    /// In the types of Cloudflare's clients: what does not fit into them stands beside it.
    #[must_use]
    fn for_clients(&self) -> Self {
        match self {
            Self::Monitor(body) => Self::Monitor(body.for_clients()),
            Self::LoadBalancer(body) => Self::LoadBalancer(body.for_clients()),
            Self::MonitorGroup(_) | Self::Pool(_) | Self::Application(_) => self.clone(),
        }
    }

    /// What people call it.
    #[must_use]
    pub fn title<'a>(&'a self, name: &'a str) -> &'a str {
        match self {
            Self::Monitor(Monitor { description, .. })
            | Self::MonitorGroup(MonitorGroup { description, .. })
                if !description.is_empty() =>
            {
                description
            }
            Self::Monitor(_) | Self::MonitorGroup(_) => name,
            Self::Pool(pool) => &pool.name,
            Self::LoadBalancer(balancer) => &balancer.name,
            Self::Application(application) => &application.dns.name,
        }
    }
}

impl Entry {
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.body.kind()
    }

    /// What people call it.
    #[must_use]
    pub fn title(&self) -> &str {
        self.body.title(&self.name)
    }

    /// The object as clients read it.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut fields = self.body.for_clients().to_json();
        fields.insert("id".to_owned(), json!(self.id));
        fields.insert("created_on".to_owned(), json!(time(self.created)));
        fields.insert("modified_on".to_owned(), json!(time(self.modified)));
        match &self.body {
            // Cloudflare's own library had these names for a while.
            Body::MonitorGroup(_) => {
                fields.insert("created_at".to_owned(), json!(time(self.created)));
                fields.insert("updated_at".to_owned(), json!(time(self.modified)));
            }
            Body::LoadBalancer(balancer) => {
                fields.insert("zone_name".to_owned(), json!(zone(&balancer.name)));
            }
            Body::Monitor(_) | Body::Pool(_) | Body::Application(_) => {}
        }
        Value::Object(fields)
    }

    /// Key of its row in the store.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind().table(), self.id)
    }

    /// Its row in the store.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        let stored = Stored {
            name: self.name.clone(),
            created: self.created,
            modified: self.modified,
            first_names: self.first_names.clone(),
            body: Value::Object(self.body.to_json()),
        };
        // Maps with text keys can always be written.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// The object of a row.
    ///
    /// # Errors
    /// Says what about it cannot be understood.
    pub fn of_row(row: &Row) -> Result<Self, String> {
        let unknown = || format!("the key {:?} names no object", row.key);
        let (table, id) = row.key.split_once('/').ok_or_else(unknown)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.table() == table);
        let (kind, id) = kind.zip(Id::parse(id)).ok_or_else(unknown)?;
        let read = || -> Result<Self, serde_json::Error> {
            let stored: Stored = serde_json::from_slice(&row.value)?;
            Ok(Self {
                id: id.clone(),
                document: Document::Objects,
                name: stored.name,
                created: stored.created,
                modified: stored.modified,
                first_names: stored.first_names,
                body: Body::from_json(kind, stored.body)?,
            })
        };
        read().map_err(|error| format!("{}: {error}", row.key))
    }
}

/// The last two labels of a host name.
fn zone(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
    let _ = dots.next();
    dots.next().map_or(name, |dot| &name[dot + 1..])
}

/// RFC 3339 with microseconds.
#[must_use]
pub fn time(micros: u64) -> String {
    rfc3339_micros(SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(micros))
}
