//! How values are told.

use super::Fields;
use crate::model::Access;
use core::fmt::Display;
use core::time::Duration;
use lb_common::abi::Country;

/// Lists that are longer are told by their length.
const MAX_LISTED: usize = 8;

/// Fields that are being told.
#[derive(Default)]
pub struct Writer(pub Fields);

impl Writer {
    pub fn tell(&mut self, field: &str, value: impl Display) {
        self.0.push((field.to_owned(), value.to_string()));
    }

    pub fn tell_some(&mut self, field: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.tell(field, value);
        }
    }

    /// A time in seconds.
    pub fn seconds(&mut self, field: &str, time: Duration) {
        self.tell(field, time.as_secs_f64());
    }

    pub fn some_seconds(&mut self, field: &str, time: Option<Duration>) {
        self.tell_some(field, time.map(|time| time.as_secs_f64()));
    }

    /// A text; none when it is empty.
    pub fn text(&mut self, field: &str, text: &str) {
        self.tell_some(field, (!text.is_empty()).then_some(text));
    }

    /// A list in its order; none when it is empty.
    pub fn list<T: Display>(&mut self, field: &str, items: impl IntoIterator<Item = T>) {
        let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
        if !items.is_empty() {
            self.tell(field, shortened(&items));
        }
    }

    pub fn access(&mut self, access: Option<&Access>) {
        let Some(Access {
            allow,
            deny,
            allow_countries,
            deny_countries,
        }) = access
        else {
            return;
        };
        self.list("access.allow", allow);
        self.list("access.deny", deny);
        self.list("access.allow_countries", allow_countries.iter().map(letters));
        self.list("access.deny_countries", deny_countries.iter().map(letters));
    }
}

/// A list; of a long one the beginning, and what tells it from others of the same length.
fn shortened(items: &[String]) -> String {
    if items.len() <= MAX_LISTED {
        return items.join(", ");
    }
    let print = fingerprint(items.iter().flat_map(|item| item.bytes().chain([0])));
    format!(
        "{}, .. ({} in all, fingerprint {print:016x})",
        items[..3].join(", "),
        items.len()
    )
}

/// What tells values apart that are not shown (FNV-1a: nobody aims at collisions with values of their own).
pub fn fingerprint(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub fn letters(country: &Country) -> String {
    country
        .letters()
        .map_or_else(|| "unknown".to_owned(), |letters| letters.iter().collect())
}
