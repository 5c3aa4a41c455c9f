//! Questions about minutes, and their answers.

use super::{Bucket, Filter, Histogram, Interval, Slice};
use core::cmp::Ordering;
use std::collections::BTreeMap;

/// What events can be told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dimension {
    Event,
    Application,
    /// The node's place.
    Colo,
    IpVersion,
}

impl Dimension {
    pub const ALL: [(&'static str, Self); 4] = [
        ("event", Self::Event),
        ("appID", Self::Application),
        ("coloName", Self::Colo),
        ("ipVersion", Self::IpVersion),
    ];

    /// The dimension of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(known, _)| *known == name)
            .map(|(_, dimension)| dimension)
    }

    /// All names, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }
}

/// What can be computed of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metric {
    Count,
    BytesIngress,
    BytesEgress,
    /// Durations in milliseconds, of connections that ended.
    DurationAvg,
    DurationMedian,
    Duration90th,
    Duration99th,
}

impl Metric {
    pub const ALL: [(&'static str, Self); 7] = [
        ("count", Self::Count),
        ("bytesIngress", Self::BytesIngress),
        ("bytesEgress", Self::BytesEgress),
        ("durationAvg", Self::DurationAvg),
        ("durationMedian", Self::DurationMedian),
        ("duration90th", Self::Duration90th),
        ("duration99th", Self::Duration99th),
    ];
}

/// What the rows are sorted by: one of the question's dimensions or metrics, by its place there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sort {
    pub by: SortBy,
    pub descending: bool,
}

/// See [`Sort`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SortBy {
    Dimension(usize),
    Metric(usize),
}

/// A question.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    pub dimensions: Vec<Dimension>,
    pub metrics: Vec<Metric>,
    pub filter: Filter,
    pub sort: Vec<Sort>,
    pub limit: usize,
    /// The node's place.
    pub colo: String,
    /// Of an answer by time; empty: one number for each metric.
    pub intervals: Vec<Interval>,
}

/// The answer.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answer {
    pub rows: Vec<Row>,
    /// By metric, over all rows and intervals, also those beyond the limit.
    pub totals: Vec<f64>,
    pub least: Vec<f64>,
    pub most: Vec<f64>,
}

/// All events with the same dimensions.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Row {
    pub dimensions: Vec<String>,
    /// By metric, by interval; of an answer that is not by time one each.
    pub metrics: Vec<Vec<f64>>,
}

/// What is summed up.
#[derive(Clone, Debug, Default)]
struct Sum {
    count: u64,
    ingress: u64,
    egress: u64,
    durations: Histogram,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.ingress += other.ingress;
        self.egress += other.egress;
        self.durations.merge(&other.durations);
    }

    fn metric(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Count => self.count as f64,
            Metric::BytesIngress => self.ingress as f64,
            Metric::BytesEgress => self.egress as f64,
            Metric::DurationAvg => self.durations.mean(),
            Metric::DurationMedian => self.durations.quantile(0.5),
            Metric::Duration90th => self.durations.quantile(0.9),
            Metric::Duration99th => self.durations.quantile(0.99),
        }
    }
}

/// The events of a bucket.
fn events(bucket: &Bucket) -> [(&'static str, Sum); 3] {
    let sum = |count, ingress, egress, durations| Sum {
        count,
        ingress,
        egress,
        durations,
    };
    let (ended, going_on) = (bucket.ended, bucket.going_on);
    [
        ("connect", sum(bucket.connects, 0, 0, Histogram::default())),
        (
            "progress",
            sum(
                bucket.open,
                going_on.ingress,
                going_on.egress,
                Histogram::default(),
            ),
        ),
        (
            "disconnect",
            sum(
                bucket.disconnects,
                ended.ingress,
                ended.egress,
                bucket.durations.clone(),
            ),
        ),
    ]
}

impl Query {
    /// Answers from minutes, each with its slice and bucket, in any order.
    pub fn answer<'b>(&self, minutes: impl IntoIterator<Item = (u64, &'b Slice, &'b Bucket)>) -> Answer {
        let cells = self.intervals.len().max(1);
        let mut groups: BTreeMap<Vec<String>, Vec<Sum>> = BTreeMap::new();
        let mut total = Sum::default();
        for (minute, slice, bucket) in minutes {
            let cell = match self.intervals.is_empty() {
                true => 0,
                // The last one that has begun.
                false => self
                    .intervals
                    .partition_point(|interval| interval.start <= minute)
                    .wrapping_sub(1),
            };
            for (event, sum) in events(bucket) {
                let value = |dimension| match dimension {
                    Dimension::Event => event,
                    Dimension::Application => slice.application.as_str(),
                    Dimension::Colo => self.colo.as_str(),
                    Dimension::IpVersion => {
                        if slice.v6 {
                            "6"
                        } else {
                            "4"
                        }
                    }
                };
                let is_empty =
                    sum.count == 0 && sum.ingress == 0 && sum.egress == 0 && sum.durations.count() == 0;
                if is_empty || !self.filter.passes(value) {
                    continue;
                }
                let dimensions = self
                    .dimensions
                    .iter()
                    .map(|dimension| value(*dimension).to_owned());
                let group = groups
                    .entry(dimensions.collect())
                    .or_insert_with(|| vec![Sum::default(); cells]);
                if let Some(cell) = group.get_mut(cell) {
                    cell.add(&sum);
                    total.add(&sum);
                }
            }
        }
        self.finish(groups, &total)
    }

    fn finish(&self, groups: BTreeMap<Vec<String>, Vec<Sum>>, total: &Sum) -> Answer {
        let mut answer = Answer {
            totals: self.metrics.iter().map(|metric| total.metric(*metric)).collect(),
            ..Answer::default()
        };
        // By the sums over all intervals, whatever is shown of them.
        let mut sorted: Vec<(Vec<f64>, Row)> = Vec::with_capacity(groups.len());
        for (dimensions, cells) in groups {
            let mut whole = Sum::default();
            cells.iter().for_each(|cell| whole.add(cell));
            let metrics = self.metrics.iter();
            let row = Row {
                dimensions,
                metrics: metrics
                    .clone()
                    .map(|metric| cells.iter().map(|cell| cell.metric(*metric)).collect())
                    .collect(),
            };
            sorted.push((metrics.map(|metric| whole.metric(*metric)).collect(), row));
        }
        let extreme = |metric: usize, pick: fn(f64, f64) -> f64| {
            let values = sorted
                .iter()
                .filter_map(|(_, row)| row.metrics.get(metric))
                .flatten()
                .copied();
            values.reduce(pick).unwrap_or(0.0)
        };
        answer.least = (0..self.metrics.len())
            .map(|metric| extreme(metric, f64::min))
            .collect();
        answer.most = (0..self.metrics.len())
            .map(|metric| extreme(metric, f64::max))
            .collect();
        // Stable: what is not sorted by is in the order of the dimensions.
        sorted.sort_by(|(a_sums, a), (b_sums, b)| {
            let mut order = Ordering::Equal;
            for sort in &self.sort {
                let next = match sort.by {
                    SortBy::Dimension(index) => a.dimensions.get(index).cmp(&b.dimensions.get(index)),
                    SortBy::Metric(index) => match (a_sums.get(index), b_sums.get(index)) {
                        (Some(a), Some(b)) => a.total_cmp(b),
                        _ => Ordering::Equal,
                    },
                };
                order = order.then(if sort.descending { next.reverse() } else { next });
            }
            order
        });
        answer.rows = sorted.into_iter().take(self.limit).map(|(_, row)| row).collect();
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Bytes, TimeDelta};
    use super::*;

    fn bucket(connects: u64, disconnects: u64, bytes: u64, durations: &[u64]) -> Bucket {
        let mut histogram = Histogram::default();
        durations.iter().for_each(|duration| histogram.add(*duration));
        Bucket {
            connects,
            disconnects,
            open: 1,
            ended: Bytes {
                ingress: bytes,
                egress: bytes * 2,
            },
            going_on: Bytes {
                ingress: 1,
                egress: 0,
            },
            durations: histogram,
        }
    }

    fn query(dimensions: &[&str], metrics: &[Metric], filter: &str) -> Query {
        Query {
            dimensions: dimensions
                .iter()
                .map(|name| Dimension::named(name).unwrap())
                .collect(),
            metrics: metrics.to_vec(),
            filter: Filter::parse(filter).unwrap(),
            sort: Vec::new(),
            limit: 100,
            colo: "FRA".into(),
            intervals: Vec::new(),
        }
    }

    fn minutes() -> Vec<(u64, Slice, Bucket)> {
        let slice = |application: &str, v6| Slice {
            application: application.to_owned(),
            v6,
        };
        vec![
            (60, slice("a", false), bucket(5, 2, 100, &[10, 30])),
            (61, slice("a", true), bucket(1, 1, 10, &[200])),
            (125, slice("a", false), bucket(3, 6, 50, &[])),
            (125, slice("b", false), bucket(7, 0, 0, &[])),
        ]
    }

    fn ask(query: &Query) -> Answer {
        let minutes = minutes();
        query.answer(
            minutes
                .iter()
                .map(|(minute, slice, bucket)| (*minute, slice, bucket)),
        )
    }

    fn told(answer: &Answer) -> Vec<(String, Vec<Vec<f64>>)> {
        let rows = answer.rows.iter();
        rows.map(|row| (row.dimensions.join(" "), row.metrics.clone()))
            .collect()
    }

    #[test]
    fn events_are_grouped_filtered_and_summed_up() {
        use Metric::{BytesEgress, BytesIngress, Count, DurationAvg, DurationMedian};
        let answer = ask(&query(&["event"], &[Count, BytesIngress, BytesEgress], ""));
        let expected = [
            ("connect".to_owned(), vec![vec![16.0], vec![0.0], vec![0.0]]),
            ("disconnect".to_owned(), vec![vec![9.0], vec![160.0], vec![320.0]]),
            ("progress".to_owned(), vec![vec![4.0], vec![4.0], vec![0.0]]),
        ];
        assert_eq!(told(&answer), expected);
        assert_eq!(
            (&answer.totals, &answer.least),
            (&vec![29.0, 164.0, 320.0], &vec![4.0, 0.0, 0.0])
        );
        let answer = ask(&query(&[], &[DurationAvg, DurationMedian], "event==disconnect"));
        assert_eq!(told(&answer), [(String::new(), vec![vec![80.0], vec![30.5]])]);
        let answer = ask(&query(
            &["appID", "ipVersion", "coloName"],
            &[Count],
            "event==connect",
        ));
        let rows = [("a 4 FRA", 8.0), ("a 6 FRA", 1.0), ("b 4 FRA", 7.0)];
        assert_eq!(
            told(&answer),
            rows.map(|(name, count)| (name.to_owned(), vec![vec![count]]))
        );
        let nobody = ask(&query(&["appID"], &[Count], "appID==c"));
        assert_eq!(
            (nobody.rows.len(), nobody.totals, nobody.most),
            (0, vec![0.0], vec![0.0])
        );
    }

    #[test]
    fn rows_are_sorted_and_limited_and_totals_are_of_all() {
        let mut sorted = query(&["appID", "ipVersion"], &[Metric::Count], "event==connect");
        let names =
            |query: &Query| -> Vec<String> { told(&ask(query)).into_iter().map(|(name, _)| name).collect() };
        sorted.sort = vec![Sort {
            by: SortBy::Metric(0),
            descending: true,
        }];
        assert_eq!(names(&sorted), ["a 4", "b 4", "a 6"]);
        sorted.limit = 1;
        let answer = ask(&sorted);
        assert_eq!(
            (answer.rows.len(), answer.totals[0], answer.least[0]),
            (1, 16.0, 1.0)
        );
        sorted.limit = 9;
        sorted.sort = [(1, true), (0, true)]
            .map(|(index, descending)| Sort {
                by: SortBy::Dimension(index),
                descending,
            })
            .to_vec();
        assert_eq!(names(&sorted), ["a 6", "b 4", "a 4"]);
    }

    #[test]
    fn time_has_a_cell_for_each_interval() {
        let mut by_time = query(&["appID"], &[Metric::Count], "event==connect");
        by_time.intervals = TimeDelta::Hour.intervals(60, 181, 10).unwrap();
        let answer = ask(&by_time);
        let expected = [
            ("a".to_owned(), vec![vec![6.0, 3.0, 0.0]]),
            ("b".to_owned(), vec![vec![0.0, 7.0, 0.0]]),
        ];
        assert_eq!(told(&answer), expected);
        assert_eq!(
            (answer.totals, answer.least, answer.most),
            (vec![16.0], vec![0.0], vec![7.0])
        );
    }
}
