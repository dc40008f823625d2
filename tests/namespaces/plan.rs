//! `plan` prints what a start installs (section 6), and lists of any size are installed whole.

use std::{collections::BTreeSet, fmt::Write, net::Ipv4Addr, time::Duration};

use crate::{
    cases,
    support::{
        outside::at,
        probe::Step,
        world::{
            ALLOWLIST, API, BINARY, ELSEWHERE, GIT, Ran, Run, SENTINEL, World, allowlist, file,
            forget, nft, reaches, rejects, table, user_options,
        },
    },
};

cases!(plan:
    it_is_what_a_start_installs,
    it_is_valid_for_nft_and_touches_nothing,
    it_needs_no_privilege,
    it_has_a_json_form,
    many_networks_of_one_length,
    a_hundred_thousand_networks,
    a_hundred_thousand_addresses_with_ports,
);

const LIST: &str = "\
api.example.org
git.example.org:22,443,8000-8100
www.example.org:443/any
198.51.100.128/25:5432/tcp
192.0.2.7:*/any
[2001:db8:7::/48]:443
[2001:db8::99]:123/udp
203.0.113.0/28
!198.51.100.200
!2001:db8:7:1::/64
!203.0.113.4:443
";

/// The sets and chains of a listing, and the elements of each set, in alphabetical order: theirs is
/// that in which they were made, or that of a hash.
pub fn sorted(listing: &str) -> Vec<String> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in listing.lines().filter(|line| !line.trim().is_empty()) {
        match blocks.last_mut() {
            Some(block) if line.starts_with("\t\t") || line == "\t}" => block.push(line.trim()),
            _ => blocks.push(vec![line.trim()]),
        }
    }
    let mut blocks: Vec<_> = blocks
        .iter()
        .map(|block| sorted_elements(&block.join(" ")))
        // nft calls it by a name since 1.1.
        .map(|block| block.replace("priority dstnat - 10;", "priority -110;"))
        .collect();
    blocks.sort();
    blocks
}

fn sorted_elements(block: &str) -> String {
    let Some((head, elements)) = block.split_once("elements = {") else {
        return block.to_owned();
    };
    let (elements, tail) = elements.split_once('}').expect("a closing brace");
    let mut elements: Vec<_> = elements.split(',').map(str::trim).collect();
    elements.sort_unstable();
    format!("{head}elements = {{ {} }}{tail}", elements.join(", "))
}

fn plan(options: &[&str]) -> Ran {
    Run::new(BINARY).arg("plan").args(options).run()
}

fn it_is_what_a_start_installs() {
    let world = World::new();
    allowlist(LIST);
    for options in [
        &["--dns", "pinned"][..],
        &["--dns", "system"],
        &[
            "--inbound",
            "8080",
            "--inbound",
            "9000-9100/udp@10.0.0.0/8",
            "--inbound",
            "22@fd00::/8",
        ],
    ] {
        // The entrypoint and plan have the same default: pinned.
        let text = plan(options).exits(0).stdout();
        world.enforce(options);
        let installed = table("egress_init").unwrap();
        // What nft makes of the text is what it shows of the kernel.
        forget();
        nft(&text);
        let loaded = table("egress_init").unwrap();
        assert_eq!(sorted(&loaded), sorted(&installed), "\n{options:?}");
        forget();
    }
}

fn it_is_valid_for_nft_and_touches_nothing() {
    let world = World::new();
    allowlist(LIST);
    for options in [
        &["--dns", "pinned"][..],
        &["--dns", "system"],
        &["--inbound", "443"],
    ] {
        let text = plan(options).exits(0).stdout();
        Run::new("nft")
            .args(["-c", "-f", "-"])
            .run_with_input(&text)
            .exits(0);
    }
    assert_eq!(table("egress_init"), None);
    assert!(!std::path::Path::new(SENTINEL).exists());
    reaches(&ELSEWHERE.map(|address| Step::Tcp((address, 443).into())));
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(!hosts.contains("example.org"), "{hosts}");
    // Mistakes are named here too.
    let bad = file("/etc/world/bad", "fine.example.org\n0.0.0.0/0\n");
    plan(&["--allowlist", bad.to_str().unwrap()])
        .exits(125)
        .says(&["/etc/world/bad:2:1: "]);
    drop(world);
}

fn it_needs_no_privilege() {
    let _world = World::new();
    allowlist(LIST);
    let expected = sorted(&plan(&[]).exits(0).stdout());
    let mut bare = vec!["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    if crate::support::harness::has_second_uid() {
        bare.extend(["--reuid=1000", "--regid=1000", "--clear-groups"]);
    }
    let ran = Run::new("setpriv")
        .args(bare)
        .args([BINARY, "plan"])
        .run()
        .exits(0);
    assert_eq!(sorted(&ran.stdout()), expected);
}

fn it_has_a_json_form() {
    let _world = World::new();
    allowlist(LIST);
    let ran = plan(&["--json"]).exits(0);
    let value: serde_json::Value =
        serde_json::from_str(&ran.stdout()).unwrap_or_else(|e| panic!("{e}\n{ran}"));
    assert!(value.is_object(), "{ran}");
    let text = value.to_string();
    for part in ["api.example.org", "198.51.100.10", "2001:db8::10"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// Every second /26 of 10.0.0.0/8: none can be merged with its neighbour.
fn networks(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|n| Ipv4Addr::from(0x0a00_0000 + n * 2 * 64))
}

/// They are asked for by their first address, in either family; what is inside is reached, and
/// what is beside it is not.
fn many_networks_of_one_length() {
    let world = World::new();
    let mut list = String::from("198.51.100.0/28:443\n[2001:db8::10/124]:443\n");
    for (network, number) in networks(5000).zip(0..) {
        let [high, low] = u16::to_be_bytes(number);
        writeln!(list, "100.{}.{low}.16/28:443", 64 + high).unwrap();
        writeln!(list, "[2001:db8:{number:x}:1::/124]:443").unwrap();
        writeln!(list, "{network}/27:8000-8100").unwrap();
    }
    allowlist(&list);
    for dns in ["pinned", "system"] {
        world.enforce(&["--dns", dns]);
        reaches(&API.map(|address| Step::Tcp((address, 443).into())));
        rejects(&API.map(|address| Step::Tcp((address, 444).into())));
        rejects(&API.map(|address| Step::Udp((address, 443).into())));
        rejects(&GIT.map(|address| Step::Tcp((address, 443).into())));
        rejects(&ELSEWHERE.map(|address| Step::Tcp((address, 443).into())));
        let installed = table("egress_init").unwrap();
        for set in ["set allow4_28 {", "set allow6_124 {", "set allow4_ranges {"] {
            assert!(installed.contains(set), "{set}");
        }
        // In a user namespace nft cannot load so much at once; these it prints as they are written.
        let of_the_list = |listing: &str| {
            let parts = ["set allow", "chain requests", "chain replies"];
            // Without /etc/protocols it knows the number alone.
            let mut blocks = sorted(&listing.replace(" . tcp . ", " . 6 . "));
            blocks.retain(|block| parts.iter().any(|part| block.starts_with(part)));
            blocks
        };
        let text = plan(&["--dns", dns]).exits(0).stdout();
        assert!(of_the_list(&text) == of_the_list(&installed), "{dns}");
        forget();
    }
}

fn a_hundred_thousand_networks() {
    let world = World::new();
    let mut list = String::from("api.example.org\n");
    for network in networks(100_000) {
        writeln!(list, "{network}/26:443").unwrap();
    }
    allowlist(&list);
    let ran = world.enforce(&[]);
    assert!(ran.elapsed < Duration::from_secs(60), "{ran}");
    reaches(&API.map(|address| Step::Tcp((address, 443).into())));
    rejects(&ELSEWHERE.map(|address| Step::Tcp((address, 443).into())));
    let listing = Run::new("nft")
        .args(["list", "table", "inet", "egress_init"])
        .run()
        .exits(0)
        .stdout();
    let (_, held) = listing.split_once("set allow4_26 {").unwrap();
    let (held, _) = held.split_once("\n\t}").unwrap();
    let installed: BTreeSet<_> = held
        .split_whitespace()
        .filter_map(|word| word.parse::<Ipv4Addr>().ok())
        .collect();
    assert_eq!(installed, networks(100_000).collect());
    // A re-run replaces them all.
    allowlist("10.0.0.0/26:443\n[2001:db8::]:443\n");
    world.enforce(&["--allowlist", ALLOWLIST]);
    rejects(&[
        Step::Tcp(at("10.0.0.128", 443)),
        Step::Tcp((API[0], 443).into()),
    ]);
}

fn a_hundred_thousand_addresses_with_ports() {
    let world = World::new();
    let mut list = String::new();
    for n in 0..50_000_u32 {
        writeln!(
            list,
            "{}:{}",
            Ipv4Addr::from(0x0a00_0000 + n * 3),
            1000 + n % 60_000
        )
        .unwrap();
        writeln!(list, "[fd00::{:x}:{:x}]:443/udp", n >> 16, n & 0xffff).unwrap();
    }
    list += "198.51.100.10:9000\n";
    allowlist(&list);
    let ran = Run::new(BINARY)
        .args(user_options())
        .command(&["/bin/true"])
        .run()
        .exits(0)
        .says(&["50001 IPv4 + 50000 IPv6"]);
    assert!(ran.elapsed < Duration::from_secs(60), "{ran}");
    reaches(&[Step::Tcp((API[0], 9000).into())]);
    rejects(&[Step::Tcp((API[0], 443).into())]);
    drop(world);
}
