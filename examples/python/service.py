"""A service in Python that deletes trainings. Their files go after COMMIT, by the daemon; no TypeScript is needed here.

All that it takes is an INSERT into ``afterdelete.pending_file_cleanup`` in the session that deletes the record.
"""

from __future__ import annotations

import argparse
import os
import sys

from sqlalchemy import ForeignKey, String, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

DATA = os.environ.get("MISTUDIO_DATA", "/data")


class Base(DeclarativeBase):
    pass


class Training(Base):
    __tablename__ = "trainings"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    checkpoints: Mapped[list[Checkpoint]] = relationship(cascade="all, delete-orphan", passive_deletes=True)


class Checkpoint(Base):
    __tablename__ = "checkpoints"

    training_id: Mapped[str] = mapped_column(ForeignKey("trainings.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    layer: Mapped[int] = mapped_column(primary_key=True)
    storage_path: Mapped[str]


ENQUEUE = text(
    """
    INSERT INTO afterdelete.pending_file_cleanup (target, prune_parents, source)
    VALUES (:target, :prune_parents, :source)
    RETURNING id
    """
)


def enqueue(session: Session, target: str, *, prune_parents: int = 0, source: str | None = None) -> int:
    """Has the target deleted once this session has committed, and never if it rolls back. Returns the cleanup's id."""
    values = {"target": target, "prune_parents": prune_parents, "source": source}
    return session.execute(ENQUEUE, values).scalar_one()


def delete_training(session: Session, training_id: str) -> int:
    """Deletes a training and, after COMMIT, its directory. The caller commits."""
    training = session.get(Training, training_id)
    if training is None:
        raise LookupError(f"Training not found: {training_id}")
    session.delete(training)
    # The slash at the end: everything below, and the directory.
    return enqueue(session, f"file://{DATA}/trainings/{training_id}/", source=f"training {training_id} deleted")


def delete_checkpoint(session: Session, training_id: str, step: int, layer: int) -> int:
    """Deletes a checkpoint and, after COMMIT, its file, with layer_M/ and checkpoint_N/ once they are empty."""
    checkpoint = session.get(Checkpoint, (training_id, step, layer))
    if checkpoint is None:
        raise LookupError(f"Checkpoint not found: {training_id}, step {step}, layer {layer}")
    session.delete(checkpoint)
    return enqueue(session, f"file://{checkpoint.storage_path}", prune_parents=2, source="checkpoint deleted")


def connect(url: str):
    """An engine for the URL that everybody else uses, `postgres://…`: SQLAlchemy wants the driver in it, too."""
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Deletes trainings. Environment: DATABASE_URL, MISTUDIO_DATA.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create-tables", help="create this service's own tables")
    training = commands.add_parser("delete-training", help="delete a training, and its files")
    training.add_argument("training_id")
    checkpoint = commands.add_parser("delete-checkpoint", help="delete one checkpoint, and its file")
    checkpoint.add_argument("training_id")
    checkpoint.add_argument("step", type=int)
    checkpoint.add_argument("layer", type=int)
    arguments = parser.parse_args()

    url = os.environ.get("DATABASE_URL")
    if url is None:
        parser.error("DATABASE_URL: expected a connection string, got nothing")
    engine = connect(url)
    if arguments.command == "create-tables":
        Base.metadata.create_all(engine)
        return 0
    # `begin` commits at the end of the block, and rolls back when it is left by an error: the INSERT with the rest.
    try:
        with Session(engine) as session, session.begin():
            if arguments.command == "delete-training":
                cleanup = delete_training(session, arguments.training_id)
            else:
                cleanup = delete_checkpoint(session, arguments.training_id, arguments.step, arguments.layer)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"deleted; cleanup {cleanup}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
