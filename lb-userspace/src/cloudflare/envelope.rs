//! What every answer is wrapped in.

use serde::Serialize;
use utoipa::ToSchema;

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct Envelope<T> {
    pub success: bool,
    pub errors: Vec<Message>,
    pub messages: Vec<Message>,
    pub result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_info: Option<ResultInfo>,
}

/// An error, or a remark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Message {
    pub code: u16,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// Where in the body of the request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Source {
    pub pointer: String,
}

/// Which part of a list an answer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ResultInfo {
    pub page: usize,
    pub per_page: usize,
    /// Items on this page.
    pub count: usize,
    pub total_count: usize,
    pub total_pages: usize,
}

impl<T> Envelope<T> {
    #[must_use]
    pub fn success(result: T) -> Self {
        Self {
            success: true,
            errors: Vec::new(),
            messages: Vec::new(),
            result: Some(result),
            result_info: None,
        }
    }
}

impl<T> Envelope<Vec<T>> {
    /// All items on one page.
    #[must_use]
    pub fn all(items: Vec<T>) -> Self {
        let info = ResultInfo {
            page: 1,
            per_page: items.len(),
            count: items.len(),
            total_count: items.len(),
            total_pages: 1,
        };
        Self {
            result_info: Some(info),
            ..Self::success(items)
        }
    }

    /// One page, counted from 1, of all items; empty behind the last one, which is where clients stop.
    #[must_use]
    pub fn page(items: Vec<T>, page: usize, per_page: usize) -> Self {
        let total_count = items.len();
        let skip = (page - 1).saturating_mul(per_page);
        let items: Vec<T> = items.into_iter().skip(skip).take(per_page).collect();
        let info = ResultInfo {
            page,
            per_page,
            count: items.len(),
            total_count,
            total_pages: total_count.div_ceil(per_page),
        };
        Self {
            result_info: Some(info),
            ..Self::success(items)
        }
    }
}
