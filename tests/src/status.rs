//! What `lb status --json` says.

use serde_json::Value;

/// One answer.
#[derive(Clone, Debug)]
pub struct Status(Value);

impl Status {
    /// Reads it; the API may wrap it in an envelope.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        Ok(Self(value))
    }

    /// The whole of it.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }

    fn named(&self, list: &str, name: &str) -> &Value {
        named(&self.0[list], name)
    }

    /// Names and modes of the attached interfaces.
    #[must_use]
    pub fn interfaces(&self) -> Vec<(&str, &str)> {
        let list = self.0["interfaces"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter()
            .filter_map(|one| Some((one["name"].as_str()?, one["mode"].as_str()?)))
            .collect()
    }

    /// Names of the configured interfaces that are not attached.
    #[must_use]
    pub fn unattached(&self) -> Vec<&str> {
        let list = self.0["unattached"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter().filter_map(|one| one["name"].as_str()).collect()
    }

    /// Health of a pool.
    #[must_use]
    pub fn pool_health(&self, pool: &str) -> &str {
        self.named("pools", pool)["health"].as_str().unwrap_or("missing")
    }

    /// An origin of a pool; null when there is none of that name.
    #[must_use]
    pub fn origin(&self, pool: &str, origin: &str) -> &Value {
        named(&self.named("pools", pool)["origins"], origin)
    }

    /// Health of an origin.
    #[must_use]
    pub fn health(&self, pool: &str, origin: &str) -> &str {
        self.origin(pool, origin)["health"].as_str().unwrap_or("missing")
    }

    /// Whether all origins of the pool that are enabled are healthy.
    #[must_use]
    pub fn is_all_healthy(&self, pool: &str) -> bool {
        let pool = self.named("pools", pool);
        let Some(origins) = pool["origins"].as_array() else {
            return false;
        };
        let mut enabled = origins.iter().filter(|origin| origin["enabled"] != false);
        let served = enabled.clone().count();
        // Health is known some milliseconds before the tables follow it, and the pool's figures go with the tables.
        enabled.all(|origin| origin["health"] == "healthy") && pool["healthy_origins"] == served
    }

    /// The application; null when there is none of that name.
    #[must_use]
    pub fn application(&self, name: &str) -> &Value {
        self.named("applications", name)
    }

    /// The pool that an application's new flows go to.
    #[must_use]
    pub fn pool_in_use(&self, application: &str) -> Option<&str> {
        self.application(application)["pool"].as_str()
    }

    /// The load balancer; null when there is none of that name.
    #[must_use]
    pub fn load_balancer(&self, name: &str) -> &Value {
        self.named("load_balancers", name)
    }
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list
        .as_array()
        .and_then(|list| list.iter().find(|one| one["name"] == name));
    found.unwrap_or(&Value::Null)
}
