//! The HTTP API of the daemon, on a unix socket and, if configured, on TCP.
//!
//! It holds no state: reads of the snapshot go to the watch channel, everything else is a [`Request`] to the daemon,
//! which owns maps, configuration and engine. A daemon that does not answer in time is an error, never a hang.

mod cloudflare;
mod connections;
mod drafts;
mod error;
mod events;
mod guard;
mod listen;
mod objects;
mod request;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
mod token;
mod version_request;

pub(crate) use cloudflare::observed;
pub use listen::{Listeners, Server};
pub(crate) use objects::by_hand;
pub use request::{
    CloudflareReply, EventFeed, Handle, Minutes, Present, Reply, Request, Standing, TraceItem, Tracing,
};
pub use routes::router;
pub use token::Token;
pub use version_request::{Deployment, DeploymentSource, Version, VersionRequest};
