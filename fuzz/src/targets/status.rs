//! What answers at the status socket: what is taken for a status prints as the same, and is one
//! object with nothing behind it.

use egress_init::keeper::status_socket::parse;
use serde_json::Value;

pub fn run(data: &[u8]) {
    let Ok(status) = parse(data) else {
        return;
    };
    let value: Value = serde_json::from_slice(data).expect("it is JSON, and nothing else");
    assert!(value.is_object());
    for field in ["schema", "pid"] {
        assert!(
            value[field]
                .as_u64()
                .is_some_and(|number| u32::try_from(number).is_ok())
        );
    }
    let again = serde_json::to_vec(&status).expect("it prints");
    assert_eq!(parse(&again).ok().as_ref(), Some(&status));
    // For a person, on a terminal.
    let _ = status.to_string();
}
