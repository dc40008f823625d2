//! The lists that are compiled into the binary, which `@NAME` stands for.

macro_rules! lists {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../allowlists/", $name, ".txt")))),+]
    };
}

static SHIPPED: &[(&str, &str)] = lists![
    "alpine",
    "anthropic",
    "beacon",
    "crates",
    "debian",
    "docker-hub",
    "github",
    "github-wildcards",
    "gitlab",
    "go",
    "google-gemini",
    "npm",
    "openai",
    "pypi",
    "ubuntu",
];

/// Each list's name and text, sorted by name. The text is in the grammar of any list.
#[must_use]
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    SHIPPED
}

/// The list of that name, in any case.
pub(super) fn find(name: &str) -> Option<(&'static str, &'static str)> {
    SHIPPED
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .copied()
}

/// The names as an error text lists them.
pub(super) fn known() -> String {
    let names: Vec<String> = SHIPPED.iter().map(|(name, _)| format!("@{name}")).collect();
    names.join(", ")
}
