-- Whether a close would say anything new: SHA-256 over its closed totals, as docs/closing.md writes them down.
set local role securebase_owner;

alter table closes
    add column totals_sha256 bytea,
    add constraint closes_totals_hash_is_sha256 check (octet_length(totals_sha256) = 32);

reset role;
