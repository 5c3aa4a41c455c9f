//! Empty on purpose: lets cargo see this crate as a dependency.
