//! `filters`: conditions on dimensions, such as `event==disconnect;appID!=a,ipVersion>=6`.

use super::Dimension;
use core::fmt;

/// Alternatives (`,` or `OR`) of conditions that all hold (`;` or `AND`, which bind tighter).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter(Vec<Vec<Condition>>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Condition {
    dimension: Dimension,
    comparison: Comparison,
    value: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
    Greater,
    Less,
}

/// Longer ones first, so that `>=` is not taken for `>`.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Greater),
    ("<", Comparison::Less),
];

/// What is wrong with a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FilterError {
    /// A condition without a comparison.
    NoComparison(String),
    UnknownDimension(String),
    NoValue(String),
    /// A value that begins with a quotation mark and does not end with one.
    Unclosed(String),
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoComparison(text) => {
                write!(
                    f,
                    "{text:?} is no condition: a dimension, one of == != > < >= <=, and a value"
                )
            }
            Self::UnknownDimension(name) => {
                write!(f, "{name:?} is not one of {}", Dimension::names())
            }
            Self::NoValue(text) => write!(f, "{text:?} compares with nothing"),
            Self::Unclosed(text) => write!(f, "{text:?} begins a quotation that does not end with it"),
        }
    }
}

/// What stands around a value that has signs or white space of its own.
const QUOTES: [char; 2] = ['"', '\''];

/// Parts between `sign` or the word, which stands between white space or at the end; not within a quoted value.
fn split<'t>(text: &'t str, sign: char, word: &str) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut quote = None;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at + c.len_utf8()..];
        let after = rest
            .strip_prefix(word)
            .filter(|after| after.is_empty() || after.starts_with(char::is_whitespace));
        let skipped = match (c, after) {
            (c, _) if quote.is_some() => {
                quote = quote.filter(|open| *open != c);
                0
            }
            (c, _) if QUOTES.contains(&c) && begins_a_value(&text[start..at]) => {
                quote = Some(c);
                0
            }
            (c, _) if c == sign => c.len_utf8(),
            (c, Some(_)) if c.is_whitespace() => c.len_utf8() + word.len(),
            _ => 0,
        };
        if skipped == 0 {
            at += c.len_utf8();
            continue;
        }
        parts.push(&text[start..at]);
        at += skipped;
        start = at;
    }
    parts.push(&text[start..]);
    parts
}

/// Whether what comes after `text` is the beginning of a value.
fn begins_a_value(text: &str) -> bool {
    text.trim_end().ends_with(['=', '<', '>'])
}

/// A value without the quotation marks around it.
fn unquoted(value: &str) -> Option<&str> {
    let Some(quote) = value.chars().next().filter(|first| QUOTES.contains(first)) else {
        return Some(value);
    };
    let inner = &value[quote.len_utf8()..];
    inner.strip_suffix(quote).filter(|inner| !inner.contains(quote))
}

impl Filter {
    /// Reads a filter; an empty text lets everything pass.
    ///
    /// # Errors
    /// The first condition that makes no sense.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let all = |text: &str| split(text, ';', "AND").into_iter().map(condition).collect();
        let alternatives = split(text, ',', "OR").into_iter().map(all);
        Ok(Self(alternatives.collect::<Result<_, _>>()?))
    }

    /// Whether what has these dimensions passes.
    pub fn passes<'v>(&self, value: impl Fn(Dimension) -> &'v str) -> bool {
        let holds = |condition: &Condition| {
            let order = value(condition.dimension).cmp(condition.value.as_str());
            match condition.comparison {
                Comparison::Equal => order.is_eq(),
                Comparison::NotEqual => order.is_ne(),
                Comparison::AtLeast => order.is_ge(),
                Comparison::AtMost => order.is_le(),
                Comparison::Greater => order.is_gt(),
                Comparison::Less => order.is_lt(),
            }
        };
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(holds))
    }
}

fn condition(text: &str) -> Result<Condition, FilterError> {
    let text = text.trim();
    let found = COMPARISONS.iter().filter_map(|(sign, comparison)| {
        let at = text.find(sign)?;
        Some((at, *sign, *comparison))
    });
    // Of those at the same place the longer one, which is first.
    let first = found.min_by_key(|(at, ..)| *at);
    let (at, sign, comparison) = first.ok_or_else(|| FilterError::NoComparison(text.to_owned()))?;
    let (name, value) = (text[..at].trim(), text[at + sign.len()..].trim());
    if value.is_empty() {
        return Err(FilterError::NoValue(text.to_owned()));
    }
    let dimension = Dimension::named(name);
    let value = unquoted(value).ok_or_else(|| FilterError::Unclosed(value.to_owned()));
    Ok(Condition {
        dimension: dimension.ok_or_else(|| FilterError::UnknownDimension(name.to_owned()))?,
        comparison,
        value: value?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(filter: &str, event: &str, application: &str, version: &str) -> bool {
        Filter::parse(filter)
            .unwrap()
            .passes(|dimension| match dimension {
                Dimension::Event => event,
                Dimension::Application => application,
                Dimension::Colo => "edge-1",
                Dimension::IpVersion => version,
            })
    }

    #[test]
    fn and_binds_tighter_than_or() {
        for (filter, expected) in [
            ("", [true, true, true]),
            ("event==connect", [true, false, true]),
            ("event == connect ; ipVersion>=6", [false, false, true]),
            ("event!=connect OR ipVersion>4 AND appID==b", [false, true, true]),
            ("event==disconnect,event==connect;appID==a", [true, true, false]),
            ("coloName!=SFO AND appID<b", [true, true, false]),
            ("appID<=a,appID>b", [true, true, false]),
            ("event=='connect' AND appID==\"b\"", [false, false, true]),
            // Nobody has such a name, and it is one condition.
            ("appID == \"a,event==disconnect OR x\"", [false, false, false]),
            ("appID!='a;b', event==x", [true, true, true]),
            ("appID==\"\"", [false, false, false]),
        ] {
            let found = [
                passes(filter, "connect", "a", "4"),
                passes(filter, "disconnect", "a", "4"),
                passes(filter, "connect", "b", "6"),
            ];
            assert_eq!(found, expected, "{filter}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (filter, expected) in [
            ("event", FilterError::NoComparison("event".into())),
            ("event==a;", FilterError::NoComparison(String::new())),
            ("colour==red", FilterError::UnknownDimension("colour".into())),
            ("event==", FilterError::NoValue("event==".into())),
            ("event=connect", FilterError::NoComparison("event=connect".into())),
            ("event==a ORevent==b OR x", FilterError::NoComparison("x".into())),
            ("event==connect OR", FilterError::NoComparison(String::new())),
            ("event==connect AND", FilterError::NoComparison(String::new())),
            ("event=='connect", FilterError::Unclosed("'connect".into())),
            ("event=='a'b", FilterError::Unclosed("'a'b".into())),
        ] {
            assert_eq!(Filter::parse(filter), Err(expected), "{filter}");
        }
    }
}
