// SPDX-License-Identifier: GPL-2.0
//~ E0599: a bio is not counted
fn twice(bio: Owned) {
    bio.clone().resubmit(); //~ bad
    bio.resubmit();
}
