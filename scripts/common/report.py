"""The former name of ``database``, ``project`` and ``terminal``, for modules that are being rebuilt."""

from scripts.common.database import COULD_NOT_DO as COULD_NOT_DO
from scripts.common.database import COULD_NOT_TELL as COULD_NOT_TELL
from scripts.common.database import HAS as HAS
from scripts.common.database import UNCHANGED as UNCHANGED
from scripts.common.database import VERSION_TABLE as VERSION_TABLE
from scripts.common.database import IsolationLevel as IsolationLevel
from scripts.common.database import Url as Url
from scripts.common.database import database as database
from scripts.common.database import give_up as give_up
from scripts.common.database import passes as passes
from scripts.common.database import refuse_damage as refuse_damage
from scripts.common.database import revision_of as revision_of
from scripts.common.database import revisions_in as revisions_in
from scripts.common.database import run as run
from scripts.common.project import ROOT as ROOT
from scripts.common.terminal import Json as Json
from scripts.common.terminal import calculation as calculation
from scripts.common.terminal import console as console
from scripts.common.terminal import finish as finish
from scripts.common.terminal import masked as masked
from scripts.common.terminal import nonzero as nonzero
from scripts.common.terminal import progress as progress
from scripts.common.terminal import run_app as run_app
from scripts.common.terminal import size_of as size_of
from scripts.common.terminal import table as table
