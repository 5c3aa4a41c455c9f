//! Spectrum's analytics.

use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What an application does now: bytes of the last minute, connections that are open.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct CurrentTraffic {
    #[serde(rename = "appID")]
    pub app_id: String,
    #[serde(rename = "bytesEgress")]
    pub bytes_egress: u64,
    #[serde(rename = "bytesIngress")]
    pub bytes_ingress: u64,
    pub connections: u64,
    /// Mean age of the open connections, in milliseconds.
    #[serde(rename = "durationAvg")]
    pub duration_avg: f64,
}

/// Events of connections, summed up.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct Analytics {
    /// Of `data`.
    pub rows: usize,
    pub data: Vec<AnalyticsRow>,
    /// Seconds that may be missing at the end.
    pub data_lag: f64,
    pub min: BTreeMap<String, f64>,
    pub max: BTreeMap<String, f64>,
    pub totals: BTreeMap<String, f64>,
    pub query: AnalyticsQuery,
    /// Of an answer by time: start and end of each interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_intervals: Option<Vec<[String; 2]>>,
}

/// All events with the same dimensions.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct AnalyticsRow {
    pub dimensions: Vec<String>,
    pub metrics: AnalyticsMetrics,
}

/// A number for each metric, or by time a list of numbers for each.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AnalyticsMetrics {
    Whole(Vec<f64>),
    ByTime(Vec<Vec<f64>>),
}

impl Default for AnalyticsMetrics {
    fn default() -> Self {
        Self::Whole(Vec::new())
    }
}

/// The question, as it was understood.
#[derive(Clone, PartialEq, Debug, Default, Serialize, ToSchema)]
pub struct AnalyticsQuery {
    pub dimensions: Vec<String>,
    pub metrics: Vec<String>,
    pub filters: String,
    pub limit: usize,
    pub since: String,
    pub until: String,
    pub sort: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_delta: Option<String>,
}
