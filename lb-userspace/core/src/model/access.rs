//! Who may open flows, by address and by country.

use super::Prefix;
use lb_common::abi::Country;

/// `access` of an application, or of all of them; with its files read in. A client is judged by the longest prefix that
/// holds it; without one by its country. As soon as anything is allowed, everybody else is denied.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Access {
    /// No prefix is both allowed and denied.
    pub allow: Vec<Prefix>,
    pub deny: Vec<Prefix>,
    /// No country is both allowed and denied.
    pub allow_countries: Vec<Country>,
    pub deny_countries: Vec<Country>,
}

impl Access {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && !self.has_countries()
    }

    /// Whether the country of a client counts.
    #[must_use]
    pub fn has_countries(&self) -> bool {
        !self.allow_countries.is_empty() || !self.deny_countries.is_empty()
    }
}

/// `[geoip]`: the countries of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CountryTable {
    /// In ascending order, each prefix once.
    rows: Vec<(Prefix, Country)>,
}

impl CountryTable {
    /// A table of these rows; of two with the same prefix the later one counts.
    #[must_use]
    pub fn new(rows: Vec<(Prefix, Country)>) -> Self {
        Self::apart(Self::unique(rows))
    }

    fn unique(mut rows: Vec<(Prefix, Country)>) -> Vec<(Prefix, Country)> {
        // Stable, so that the later one is the last of its prefix.
        rows.sort_by_key(|(prefix, _)| *prefix);
        rows.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                *earlier = *later;
            }
            same
        });
        rows
    }

    /// With no country for IPv4 as a whole where an IPv6 prefix would tell one.
    fn apart(mut rows: Vec<(Prefix, Country)>) -> Self {
        if rows.iter().any(|(prefix, _)| prefix.engulfs_ipv4())
            && let Err(place) = rows.binary_search_by_key(&Prefix::IPV4, |(prefix, _)| *prefix)
        {
            rows.insert(place, (Prefix::IPV4, Country::UNKNOWN));
        }
        Self { rows }
    }

    /// As [`Self::new`], of rows none of which holds another: where two make up a prefix of one country, that prefix stands.
    #[must_use]
    pub fn joined(rows: Vec<(Prefix, Country)>) -> Self {
        let mut joined: Vec<(Prefix, Country)> = Vec::new();
        for row in Self::unique(rows) {
            let (mut prefix, country) = row;
            while let Some((before, of)) = joined.last()
                && *of == country
                && let Some(both) = before.joined(prefix)
            {
                joined.pop();
                prefix = both;
            }
            joined.push((prefix, country));
        }
        Self::apart(joined)
    }

    #[must_use]
    pub fn rows(&self) -> &[(Prefix, Country)] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str)]) -> Vec<(Prefix, Country)> {
        let country = |text: &str| Country::new(text.as_bytes().try_into().unwrap());
        rows.iter()
            .map(|(prefix, letters)| (prefix.parse().unwrap(), country(letters)))
            .collect()
    }

    #[test]
    fn halves_of_one_country_are_joined() {
        let rows = table(&[
            ("10.0.0.0/26", "DE"),
            ("10.0.0.64/26", "DE"),
            ("10.0.0.128/25", "DE"),
            ("10.0.1.0/24", "FR"),
            // Neighbours, but not halves.
            ("10.0.3.0/24", "DE"),
            ("10.0.4.0/24", "DE"),
            ("2001:db8::/33", "DE"),
            ("2001:db8:8000::/33", "DE"),
        ]);
        let joined = table(&[
            ("10.0.0.0/24", "DE"),
            ("10.0.1.0/24", "FR"),
            ("10.0.3.0/24", "DE"),
            ("10.0.4.0/24", "DE"),
            ("2001:db8::/32", "DE"),
        ]);
        assert_eq!(CountryTable::joined(rows).rows(), joined);
    }

    #[test]
    fn the_later_row_counts() {
        let rows = table(&[("10.0.0.0/8", "DE"), ("9.0.0.0/8", "US"), ("10.0.0.0/8", "FR")]);
        let expected = table(&[("9.0.0.0/8", "US"), ("10.0.0.0/8", "FR")]);
        assert_eq!(CountryTable::new(rows).rows(), expected);
    }

    #[test]
    fn the_country_of_ipv6_is_not_that_of_ipv4() {
        let [six, four] = ["::/8", "0.0.0.0/0"].map(|text| text.parse().unwrap());
        let de = Country::new(*b"DE");
        let expected = [(four, Country::UNKNOWN), (six, de)];
        assert_eq!(CountryTable::new(vec![(six, de)]).rows(), expected);
        assert_eq!(CountryTable::joined(vec![(six, de)]).rows(), expected);
        let told = [(four, Country::new(*b"FR")), (six, de)];
        assert_eq!(CountryTable::new(told.to_vec()).rows(), told);
    }
}
