//! The sentinel's text, against what `serde_json` says of it as a value without a shape.

use egress_init::fuzzing::parse_sentinel;
use serde_json::Value;

const TEXTS: [&str; 6] = [
    "boot_id",
    "created",
    "mode",
    "dns",
    "ruleset_sha256",
    "version",
];
const NUMBERS: [&str; 5] = ["netns_cookie", "netns_inode", "names", "ipv4", "ipv6"];
const MOST: usize = 64 * 1024;

pub fn run(data: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(data).ok();
    let whole = value.as_ref().is_some_and(is_whole) && data.len() <= MOST;
    match parse_sentinel(data) {
        Ok(sentinel) => {
            assert!(whole, "taken: {}", String::from_utf8_lossy(data));
            let again = serde_json::to_vec(&sentinel).expect("it prints");
            assert_eq!(parse_sentinel(&again).ok(), Some(sentinel));
        }
        // A member given twice has no one meaning: refused, where a value takes the last.
        Err(error) if whole => {
            let source = std::error::Error::source(&error);
            let reason = source.map(ToString::to_string).unwrap_or_default();
            assert!(
                reason.contains("duplicate field"),
                "refused: {error}: {reason}"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty() && error.remedy().is_some()),
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_object()
        && value["schema"].as_u64() == Some(1)
        && TEXTS.iter().all(|field| value[field].is_string())
        && NUMBERS.iter().all(|field| value[field].is_u64())
}
