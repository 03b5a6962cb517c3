//! Where a home may be.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::events::object;
use crate::support::Site;

/// Counts into a home at this place below the folder, in two turns.
fn check(site: &Site, home: &str) {
    let log = site.write("log.json", &object(0..5));
    for counted in [5, 0] {
        assert_eq!(site.json(["replay", &log, "--home", home])["counted"], counted, "{home}");
    }
    let status = site.json(["status", "--home", home]);
    assert_eq!(
        status,
        serde_json::json!({
            "partitions": 1, "partitions_behind": 0, "dead_letters_open": 0, "accounts": 1, "accounts_of_no_customer": 1,
            "facts": 0, "exports_in_force": 0, "exports_incomplete": 0, "gaps": 0, "account_limits": [],
            // The process that counts for this command is its own.
            "last_24_hours": { "workers": 3, "conflicts": 0, "unknown_outcomes": 0, "parked_slices": 0 },
        })
    );
    let ran = site.run(["status", "--home", home]);
    assert!(ran.succeeded().out.contains("accounts of no customer"), "{ran:?}");
}

#[test]
fn a_home_below_a_folder_of_ones_own_works() {
    let site = Site::without_database();
    fs::create_dir(site.path("private")).unwrap();
    fs::set_permissions(site.path("private"), Permissions::from_mode(0o700)).unwrap();
    check(&site, site.path("private/home").to_str().unwrap());
    let mode = fs::metadata(site.path("private/home/session.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_relative_home_with_spaces_and_letters_beyond_ascii_works() {
    let site = Site::without_database();
    check(&site, "Büro 1/домой/it's \"home\"");
    assert!(site.path("Büro 1/домой/it's \"home\"/postgres").exists());
    assert!(!site.home().exists());
}
