// SPDX-License-Identifier: GPL-2.0
//~ E0308: an error number is no status
fn finish(bio: Owned) {
    bio.end(-5); //~ bad
    bio.end(EIO.into()); //~ good
}
