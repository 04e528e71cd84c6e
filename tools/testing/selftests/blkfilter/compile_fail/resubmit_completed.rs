// SPDX-License-Identifier: GPL-2.0
//~ E0599: a bio that has completed does not go on
fn end_io(bio: CompletedBio<'_>) {
    bio.resubmit(); //~ bad
    let _ = bio.status(); //~ good
}
