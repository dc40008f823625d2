//! `status`: what the keeper of this container is doing.

use super::{Outcome, print};
use crate::{
    cli::StatusArgs,
    config::{self, Environment},
    error::Error,
    keeper::status_socket,
};

/// Asks the keeper and prints its answer.
pub fn status(args: &StatusArgs, environment: Environment<'_>) -> Result<Outcome, Error> {
    let sentinel = config::sentinel(args.sentinel.as_deref(), environment);
    let status = status_socket::ask(&status_socket::path(&sentinel))?;
    if args.json {
        let json = serde_json::to_string(&status)
            .map_err(|error| Error::Process("write the status as JSON", error.into()))?;
        print(&format!("{json}\n"))?;
    } else {
        print(&status.to_string())?;
    }
    Ok(Outcome::Done)
}
