// SPDX-License-Identifier: GPL-2.0
//~ E0382: a bio that was deferred is not ours
fn finish(bio: Owned) {
    bio.defer();
    bio.end(BlkStatus::IOERR); //~ bad
}
