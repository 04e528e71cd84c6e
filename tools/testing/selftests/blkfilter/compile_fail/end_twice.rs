// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio ends once
fn finish(bio: Owned) {
    bio.end(BlkStatus::OK);
    bio.end(BlkStatus::OK); //~ bad
}
